/**
 * Reports when the route of the page changes. Sources: Navigation API where the browser has it, History API everywhere.
 *
 * There is no event for `pushState` and `replaceState` of the History API, so they are wrapped, and a router needs no
 * adapter. Other code may have wrapped them after this module; removing our wrapper would then remove theirs. So it stays,
 * does nothing while stopped, and is used again by the next `start`: starting and stopping never adds wrappers.
 *
 * A router may change its own state just after the address, so the route is read again when the present task is over.
 */
import { report } from './listeners.js';

export interface RouteTracker {
  /** Starts or stops. */
  track(on: boolean): void;
  /** Calls `changed` if the route is not the one of the last check. */
  check(): void;
}

/** `read` returns the route that the page shows. If it throws, the error is reported as uncaught and the last route stays. */
export function createRouteTracker(win: Window, read: () => string, changed: (route: string) => void): RouteTracker {
  const { history } = win;
  let active = false;
  let route: string | undefined;

  const check = () => {
    try {
      const next = active ? read() : route;
      if (route !== next) changed((route = next!));
    } catch (error) {
      report(error);
    }
  };
  const navigated = () => {
    check();
    setTimeout(check);
  };

  const wraps = (['pushState', 'replaceState'] as const).map((name) => {
    let original: History[typeof name] | undefined;
    const wrapper: History[typeof name] = function (this: History, ...entry) {
      original!.apply(this, entry);
      navigated();
    };
    return () => {
      if (active) {
        if (original) return;
        original = history[name];
        history[name] = wrapper;
      } else if (history[name] === wrapper) {
        // Normally the original is the prototype's, and deleting the wrapper uncovers it.
        delete (history as Partial<History>)[name];
        if (history[name] !== original) history[name] = original!;
        original = undefined;
      }
    };
  });

  return {
    check,
    track(on) {
      active = on;
      for (const wrapOrUnwrap of wraps) wrapOrUnwrap();
      const listen = on ? 'addEventListener' : 'removeEventListener';
      win[listen]('popstate', navigated);
      (win as { navigation?: Partial<EventTarget> }).navigation?.[listen]?.('currententrychange', navigated);
      check();
    },
  };
}
