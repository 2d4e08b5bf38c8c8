/**
 * Notices that the page shows another path. Source: History API.
 *
 * There is no event for `pushState` and `replaceState`, so they are wrapped; a router needs no adapter then. Others
 * wrap them too, and may have done so after us: then the wrapper cannot be taken out again without cutting theirs off.
 * It stays, does nothing while stopped, and is used again by the next `start`, so that stopping and starting never
 * piles wrappers up.
 */

export interface RouteTracker {
  start(): void;
  stop(): void;
  /** Calls `changed` if the path is another one than at the last look. */
  check(): void;
}

export function createRouteTracker(win: Window, changed: (path: string) => void): RouteTracker {
  const { history, location } = win;
  let active = false;
  let path: string | undefined;

  // Query and fragment are not looked at: a change of only those changes nothing.
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
        // Normally the original is the prototype's and comes to light again by itself.
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
