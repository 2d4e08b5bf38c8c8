/**
 * Guards `Intl` against the browser's language. To be imported before all else, because uPlot passes `navigator.language`
 * to Intl while it is loaded. WebKitGTK says "C" in a container, which its own Intl refuses with a RangeError, and the page
 * stayed blank.
 */
export function guardLanguage(navigator: Navigator): void {
  try {
    Intl.getCanonicalLocales(navigator.language);
  } catch {
    Object.defineProperty(navigator, 'language', { value: 'en', configurable: true });
  }
}

// Node, which runs the tests, has none before version 21.
if (globalThis.navigator) guardLanguage(navigator);
