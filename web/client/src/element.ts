/**
 * `<active-connections>`: the figures in any page, with or without a framework. Importing this module defines it.
 *
 * `show` names what is shown: `total` (default), `versions`, `routes`, several with spaces; `label` is the word after the
 * total. Without a Headcount on the page it makes one from `version`, `base-path` and `route-tracking`, and counts the
 * page. Styled by the parts `total`, `label`, `message`, `list`, `row`, `name`, `count` and the custom properties
 * `--headcount-gap` and `--headcount-muted`.
 */
import { createHeadcount, type Headcount, latestHeadcount } from './index.js';

const STYLE =
  ':host{display:inline-block}:host([hidden]){display:none}:host([data-stale]){opacity:.6}' +
  '[part=total]{font-weight:600}[part=message],[part=label]{color:var(--headcount-muted)}' +
  '[part=row]{display:flex;justify-content:space-between;gap:var(--headcount-gap,1em)}';

// A server that renders has no elements; there the class only must not stand in the way.
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

export class ActiveConnectionsElement extends Base {
  // Declared only: what older browsers need for private fields is longer than the rest of this file.
  declare private _headcount: Headcount | undefined;
  declare private _leave: (() => void) | undefined;
  declare private _live: Element | undefined;
  declare private _lists: Element;

  static get observedAttributes(): string[] {
    return ['show', 'label'];
  }

  /** Default: the one created last on this page, else one made from the attributes. */
  get headcount(): Headcount {
    return (this._headcount ??= latestHeadcount() ?? this._create());
  }
  set headcount(headcount: Headcount) {
    this._headcount = headcount;
    if (this._leave) this.connectedCallback();
  }

  connectedCallback(): void {
    this.disconnectedCallback();
    if (!this._live) {
      this._live = part('div');
      this._lists = part('div');
      // Only the total is spoken: lists that change four times a second would never let anybody finish a sentence.
      this._live.setAttribute('aria-live', 'polite');
      const root = this.attachShadow({ mode: 'open' });
      root.append(this._live, this._lists);
      try {
        // A strict Content-Security-Policy lets no style element be, and does not mind this.
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(STYLE);
        root.adoptedStyleSheets = [sheet];
      } catch {
        root.append(part('style', '', STYLE));
      }
    }
    const start = () => {
      if (this._leave === wait) this._leave = this.headcount.subscribe(() => this._render());
    };
    const wait = (this._leave = () => {});
    if (this._headcount ?? latestHeadcount()) start();
    // A script of the page may be about to make one, and a second one would count the page twice.
    else if (document.readyState === 'complete') queueMicrotask(start);
    else window.addEventListener('load', start);
  }

  disconnectedCallback(): void {
    this._leave?.();
    this._leave = undefined;
  }

  attributeChangedCallback(): void {
    if (this._leave && this._headcount) this._render();
  }

  private _create(): Headcount {
    const text = (name: string) => this.getAttribute(name) ?? undefined;
    const routeTracking = this.hasAttribute('route-tracking') || undefined;
    const headcount = createHeadcount({ version: text('version'), basePath: text('base-path'), routeTracking });
    headcount.connect();
    return headcount;
  }

  private _render(): void {
    const snapshot = this.headcount.getSnapshot();
    const { authorized } = snapshot;
    const shows = (name: string) => (this.getAttribute('show') ?? 'total').split(/\s+/).includes(name);
    this.toggleAttribute('data-stale', snapshot.isStale);
    const line = part('div');
    if (!authorized) {
      line.append(
        part('span', 'message', authorized === null ? 'Waiting for figures' : 'Not authorized for live stats'),
      );
    } else if (shows('total')) {
      line.append(
        part('span', 'total', snapshot.total),
        ' ',
        part('span', 'label', this.getAttribute('label') ?? 'open'),
      );
    }
    // Text that stays the same is left alone, or it would be spoken again.
    if (line.textContent !== this._live!.textContent) this._live!.replaceChildren(...line.childNodes);
    const lists = part('div');
    for (const name of ['versions', 'routes'] as const) {
      if (!authorized || !shows(name)) continue;
      const list = part('div', 'list');
      list.setAttribute('role', 'list');
      list.setAttribute('aria-label', name);
      for (const [label, count] of Object.entries(snapshot[name]).sort(([, a], [, b]) => b - a)) {
        const row = part('div', 'row');
        row.setAttribute('role', 'listitem');
        row.append(part('span', 'name', label), part('span', 'count', count));
        list.append(row);
      }
      lists.append(list);
    }
    this._lists.replaceChildren(...lists.childNodes);
  }
}

function part(tag: string, name = '', text: string | number = ''): HTMLElement {
  const element = document.createElement(tag);
  if (name) element.setAttribute('part', name);
  element.textContent = text as string;
  return element;
}

if (globalThis.customElements && !customElements.get('active-connections')) {
  customElements.define('active-connections', ActiveConnectionsElement);
}

declare global {
  interface HTMLElementTagNameMap {
    'active-connections': ActiveConnectionsElement;
  }
}
