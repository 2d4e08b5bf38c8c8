/**
 * `<headcount-update>`: offers the current version, in any page. Importing this module defines it.
 *
 * Without a Release on the page, the element creates one from `version`, `mode` and `base-path`. It is empty, and has the
 * attribute `hidden`, until there is something to offer. `label`, `reload-label` and `dismiss-label` replace the texts.
 * Style it with the parts `box`, `message`, `reason`, `reload` and `dismiss`.
 */
import { adoptStyle, part, whenThere } from './custom-elements.js';
import { latestHeadcount } from './index.js';
import { createRelease, latestRelease, type Mode, type Reason, type Release } from './release.js';

const REASONS: Record<Reason, string> = {
  guard: 'Something on this page is not finished yet. Finish it, then reload.',
  form: 'A form on this page has unsaved input. Submit or clear it, then reload.',
  media: 'Something is playing on this page. Pause it, then reload.',
  dialog: 'A dialog is open on this page. Close it, then reload.',
  beforeunload: 'This page has unsaved changes. Save them, then reload.',
  storage: 'This browser stores nothing for this site. Reload the page yourself.',
  early: 'The last reload brought an old version. Try again in some minutes.',
  exhausted: 'Three reloads brought an old version. Close this tab, and open the page again later.',
  unserved: 'The new version is not available here yet. Try again later.',
  current: 'This page is up to date.',
  closed: 'Updates have ended for this page. Reload it yourself.',
};

const STYLE =
  ':host([hidden]){display:none}[part=box]{display:flex;flex-wrap:wrap;gap:.5em 1em;align-items:center}' +
  'button{font:inherit;cursor:pointer}[part=reason]:empty{display:none}';

// Node has no HTMLElement, but importing this module must work during server-side rendering.
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

export class HeadcountUpdateElement extends Base {
  // `declare`, because #private fields would be compiled to code that is longer than the rest of this file.
  declare private _release: Release | undefined;
  declare private _leave: (() => void) | undefined;
  declare private _parts: Record<'message' | 'reason' | 'reload' | 'dismiss', HTMLElement> | undefined;

  static get observedAttributes(): string[] {
    return ['label', 'reload-label', 'dismiss-label'];
  }

  /** Default: the one created last on this page, else one made from the attributes. */
  get release(): Release {
    return (this._release ??= latestRelease() ?? this._create());
  }
  set release(release: Release) {
    this._release = release;
    if (this._leave) this.connectedCallback();
  }

  connectedCallback(): void {
    this.disconnectedCallback();
    if (!this._parts) this._build();
    const start = () => {
      if (this._leave === wait) this._leave = this.release.subscribe(() => this._render());
    };
    const wait = (this._leave = () => {});
    this.hidden = true;
    // A script of the page has the application's settings.
    whenThere(!!(this._release ?? latestRelease()), start);
  }

  disconnectedCallback(): void {
    this._leave?.();
    this._leave = undefined;
  }

  attributeChangedCallback(): void {
    if (this._leave && this._release) this._render();
  }

  private _create(): Release {
    const text = (name: string) => this.getAttribute(name) ?? undefined;
    return createRelease({
      version: text('version') ?? '',
      mode: text('mode') as Mode | undefined,
      basePath: text('base-path'),
      headcount: latestHeadcount(),
    });
  }

  private _build(): void {
    const root = this.attachShadow({ mode: 'open' });
    const box = part('div', 'box');
    // The region is there before its text, or screen readers would not announce that.
    box.setAttribute('role', 'status');
    const parts = {
      message: part('span', 'message'),
      reload: part('button', 'reload'),
      dismiss: part('button', 'dismiss'),
      reason: part('span', 'reason'),
    };
    parts.reload.addEventListener('click', () => void this.release.reload());
    parts.dismiss.addEventListener('click', () => this.release.dismiss());
    box.append(...Object.values(parts));
    root.append(box);
    adoptStyle(root, STYLE);
    this._parts = parts;
  }

  private _render(): void {
    const { offered, reason } = this.release.getSnapshot();
    const text = (name: string, fallback: string) => (offered ? (this.getAttribute(name) ?? fallback) : '');
    const texts = {
      message: text('label', 'A new version is available.'),
      reload: text('reload-label', 'Reload'),
      dismiss: text('dismiss-label', 'Not now'),
      reason: offered && reason ? REASONS[reason] : '',
    };
    this.hidden = !offered;
    for (const [name, element] of Object.entries(this._parts!)) {
      const next = texts[name as keyof typeof texts];
      // Unchanged text is not replaced, or screen readers would announce it again.
      if (element.textContent !== next) element.textContent = next;
    }
  }
}

if (globalThis.customElements && !customElements.get('headcount-update')) {
  customElements.define('headcount-update', HeadcountUpdateElement);
}

declare global {
  interface HTMLElementTagNameMap {
    'headcount-update': HeadcountUpdateElement;
  }
}
