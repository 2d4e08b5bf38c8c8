/** What the web components share: their parts, their styles, and how long they wait for the page's script. Tests: test/element.test.ts. */

/** Makes an element that pages can style as `::part(name)`. */
export function part(tag: string, name = '', text: string | number = ''): HTMLElement {
  const element = document.createElement(tag);
  if (name) element.setAttribute('part', name);
  element.textContent = text as string;
  return element;
}

/** Gives a shadow root a style sheet. */
export function adoptStyle(root: ShadowRoot, style: string): void {
  try {
    // A strict Content-Security-Policy forbids style elements and allows this.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    root.adoptedStyleSheets = [sheet];
  } catch {
    root.append(part('style', '', style));
  }
}

/** Calls `start` at once, or when the scripts of the page have run: one may still make what `isThere` looks for. */
export function whenThere(isThere: boolean, start: () => void): void {
  if (isThere) start();
  else if (document.readyState === 'complete') queueMicrotask(start);
  else window.addEventListener('load', start);
}
