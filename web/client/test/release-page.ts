import { expect, vi } from 'vitest';
import type { Headcount, ReleaseReply, ServerMessage } from '../src/index.js';
import { createRelease, type ReleaseOptions } from '../src/release.js';

const opened: { close(): void }[] = [];

/** Ends what the tests left open: to be called after each. */
export function closeReleases(): void {
  for (const release of opened.splice(0)) release.close();
  document.body.replaceChildren();
  localStorage.clear();
  sessionStorage.clear();
}

/** A stream that says what the test lets it say, of a page that is open. */
function fakeStream(currentVersion?: string) {
  const listeners = new Set<(message: ServerMessage) => void>();
  const snapshot: { status: string; currentVersion: string | undefined; release?: object | undefined } = {
    status: 'open',
    currentVersion,
  };
  /** What the page replied to releases, each as `reply` or `reply reason`. */
  const replies: string[] = [];
  return {
    replies,
    headcount: {
      getSnapshot: () => ({ ...snapshot }),
      reply({ type, version, reply, reason }: ReleaseReply) {
        expect([type, version]).toEqual(['release-reply', snapshot.currentVersion]);
        replies.push(reason ? `${reply} ${reason}` : reply);
      },
      onMessage(listener: (message: ServerMessage) => void) {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
    } as unknown as Headcount,
    /** A release, as the client passes it on; without a number, as from an older server; `reply`: it asks for replies. */
    says(version: string | undefined, number?: number, reply?: boolean) {
      snapshot.currentVersion = version;
      snapshot.release = number === undefined ? undefined : { state: 'declared', version, number };
      for (const listener of listeners) listener({ type: 'version', version, reply });
    },
    breaks() {
      snapshot.status = 'reconnecting';
    },
    listeners,
  };
}

/**
 * A page in the window of jsdom, with what a test needs in its hands: the address, the history, the server.
 * Needs fake timers.
 *
 * @param forbid Storages whose use throws, as in a sandboxed frame.
 */
export function openRelease(options: Partial<ReleaseOptions> = {}, current?: string, forbid: string[] = []) {
  const stream = fakeStream(current);
  const site = { document: 'v2', status: 200, redirected: false, health: {} as object | undefined };
  const fetch = vi.fn(async (input: string) => {
    const path = new URL(input).pathname;
    if (path.endsWith('/health')) {
      if (!site.health) throw new TypeError('network');
      return Response.json(site.health);
    }
    const html = site.document && `<meta name="headcount-version" content="${site.document}">`;
    const response = new Response(html, { status: site.status });
    return Object.defineProperty(response, 'redirected', { value: site.redirected });
  });
  const location = {
    ...new URLRecord('https://shop.example/cart?step=2#pay'),
    reload: vi.fn(),
    assign: vi.fn(),
  };
  /** What the release may have wrapped. */
  const pushed = vi.fn();
  const history = { pushState: pushed as History['pushState'] };
  const state = { hidden: false };
  const page = new Proxy(document, {
    get(target, name) {
      if (name === 'hidden') return state.hidden;
      if (name === 'baseURI') return location.href;
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const own: Record<string | symbol, unknown> = { location, history, fetch, document: page };
  const win = new Proxy(window, {
    get(target, name) {
      if (forbid.includes(name as string)) throw new DOMException('forbidden', 'SecurityError');
      if (name in own) return own[name];
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' && !/^[A-Z]/.test(String(name)) ? value.bind(target) : value;
    },
  }) as Window & typeof globalThis;
  const release = createRelease({
    version: 'v1',
    headcount: stream.headcount,
    spreadMs: 0,
    window: win,
    ...options,
  });
  opened.push(release);
  return {
    release,
    stream,
    site,
    fetch,
    location,
    pushed,
    navigate: (url: string | null) => history.pushState({ some: 'state' }, '', url),
    /** How often the page checked what its own address delivers. */
    checks: () => fetch.mock.calls.filter(([url]) => !url.includes('/health')).length,
    polls: () => fetch.mock.calls.filter(([url]) => url.includes('/health')).length,
    setHidden(hidden: boolean) {
      state.hidden = hidden;
      window.dispatchEvent(new Event('visibilitychange'));
    },
    /** The address of where the page went, or how often it was loaded anew. */
    left: () =>
      location.assign.mock.calls.map(([url]) => String(url)).concat(location.reload.mock.calls.map(() => 'reload')),
  };
}

export const passes = (seconds: number) => vi.advanceTimersByTimeAsync(seconds * 1000);

/** The fields of an address, as own properties. */
class URLRecord {
  readonly href: string;
  readonly origin: string;
  readonly pathname: string;
  readonly search: string;

  constructor(address: string) {
    ({ href: this.href, origin: this.origin, pathname: this.pathname, search: this.search } = new URL(address));
  }
}
