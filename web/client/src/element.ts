/**
 * `<active-connections>`: the figures in any page, with or without a framework. Importing this module defines it.
 *
 * `show` is a list of `total` (default), `versions` and `routes`, separated by spaces; `label` is the text after the total.
 * Without a Headcount on the page, the element creates one from `version`, `base-path` and `route-tracking` (may
 * be `hash`), which counts the page. Style it with the parts `total`, `label`, `message`, `list`, `row`, `name`, `count` and the custom properties
 * `--headcount-gap` and `--headcount-muted`.
 */
import { adoptStyle, part, whenThere } from './custom-elements.js';
import { createHeadcount, type Headcount, latestHeadcount } from './index.js';

const STYLE =
  ':host{display:inline-block}:host([hidden]){display:none}:host([data-stale]){opacity:.6}' +
  '[part=total]{font-weight:600}[part=message],[part=label]{color:var(--headcount-muted)}' +
  '[part=row]{display:flex;justify-content:space-between;gap:var(--headcount-gap,1em)}';

// Node has no HTMLElement, but importing this module must work during server-side rendering.
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

export class ActiveConnectionsElement extends Base {
  // `declare`, because #private fields would be compiled to code that is longer than the rest of this file.
  declare private _headcount: Headcount | undefined;
  declare private _leave: (() => void) | undefined;
  declare private _live: Element | undefined;
  declare private _lists: Element;

  static get observedAttributes(): string[] {
    return ['show', 'label'];
  }

  /** Default: the client created last on this page, else one made from the attributes. */
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
      // Screen readers announce only the total: lists that change four times a second would interrupt themselves.
      this._live.setAttribute('aria-live', 'polite');
      const root = this.attachShadow({ mode: 'open' });
      root.append(this._live, this._lists);
      adoptStyle(root, STYLE);
    }
    const start = () => {
      if (this._leave === wait) this._leave = this.headcount.subscribe(() => this._render());
    };
    const wait = (this._leave = () => {});
    // A second client would count the page twice.
    whenThere(!!(this._headcount ?? latestHeadcount()), start);
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
    const tracking = text('route-tracking');
    const routeTracking = tracking === 'hash' ? tracking : tracking !== undefined || undefined;
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
        part(
          'span',
          'message',
          snapshot.error ?? (authorized === null ? 'Waiting for figures' : 'Not authorised for live stats'),
        ),
      );
    } else if (shows('total')) {
      line.append(
        part('span', 'total', snapshot.total),
        ' ',
        part('span', 'label', this.getAttribute('label') ?? 'open'),
      );
    }
    // Unchanged text is not replaced, or screen readers would announce it again.
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

if (globalThis.customElements && !customElements.get('active-connections')) {
  customElements.define('active-connections', ActiveConnectionsElement);
}

declare global {
  interface HTMLElementTagNameMap {
    'active-connections': ActiveConnectionsElement;
  }
}
