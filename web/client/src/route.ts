/**
 * Reports when the path of the page changes. Source: History API.
 *
 * There is no event for `pushState` and `replaceState`, so they are wrapped, and a router needs no adapter. Other code may
 * have wrapped them after this module; removing our wrapper would then remove theirs. So it stays, does nothing while
 * stopped, and is used again by the next `start`: starting and stopping never adds wrappers.
 */

export interface RouteTracker {
  start(): void;
  stop(): void;
  /** Calls `changed` if the path is not the one of the last check. */
  check(): void;
}

export function createRouteTracker(win: Window, changed: (path: string) => void): RouteTracker {
  const { history, location } = win;
  let active = false;
  let path: string | undefined;

  // Query and fragment are not part of the route.
  const check = () => {
    if (active && path !== location.pathname) changed((path = location.pathname));
  };

  const wraps = (['pushState', 'replaceState'] as const).map((name) => {
    let original: History[typeof name] | undefined;
    const wrapper: History[typeof name] = function (this: History, ...entry) {
      original!.apply(this, entry);
      check();
    };
    return {
      wrap() {
        if (original) return;
        original = history[name];
        history[name] = wrapper;
      },
      unwrap() {
        if (history[name] !== wrapper) return;
        // Normally the original is the prototype's, and deleting the wrapper uncovers it.
        Reflect.deleteProperty(history, name);
        if (history[name] !== original) history[name] = original!;
        original = undefined;
      },
    };
  });

  return {
    check,
    start() {
      active = true;
      for (const { wrap } of wraps) wrap();
      win.addEventListener('popstate', check);
      check();
    },
    stop() {
      active = false;
      for (const { unwrap } of wraps) unwrap();
      win.removeEventListener('popstate', check);
    },
  };
}
