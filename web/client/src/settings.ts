/**
 * What a page can say when it creates its client, what is taken when it does not, and where that leads.
 */
import type { Backoff } from './backoff.js';
import type { StreamFactory } from './connection.js';
import type { UpdateStrategy } from './messages.js';
import type { Site } from './transport.js';

export interface HeadcountOptions {
  /** Build id of the code this page runs. Without it the server takes the version cookie, else `unknown`. */
  version?: string | undefined;
  /** Where the server is mounted. Default `/__skew`. */
  basePath?: string | undefined;
  /** Origin of the server, if it is not the page's. It must allow this page's origin. */
  url?: string | undefined;
  /** `auto` (default): WebSocket, or SSE where WebSockets do not get through. */
  updateStrategy?: UpdateStrategy | undefined;
  /** Tells the server which path the page shows, whenever it changes. Default false. */
  routeTracking?: boolean | undefined;
  /** Asks for changes instead of whole figures. Default true. */
  deltas?: boolean | undefined;
  /** This page watches and is not counted itself. The server closes such a stream if it may not watch. */
  viewer?: boolean | undefined;
  /** Default `same-origin`, and `include` with another origin, where cookies would otherwise stay behind. */
  credentials?: RequestCredentials | undefined;
  /**
   * Sent with every request, such as `{ authorization: 'Bearer …' }`; a function is asked anew each time. Streams are then
   * read by fetch, because neither EventSource nor WebSocket can send headers.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>) | undefined;
  /** What holds the stream. Default: this page has one of its own. `shared` of `headcount-client/shared`: one per browser. */
  stream?: StreamFactory | undefined;
  /** Default 1,000 and 30,000 ms. */
  backoff?: Partial<Backoff> | undefined;
  // Taken from the page. Another one can be given, for tests.
  window?: (Window & typeof globalThis) | undefined;
  EventSource?: typeof EventSource | undefined;
  WebSocket?: typeof WebSocket | undefined;
  fetch?: typeof fetch | undefined;
}

/**
 * A server that hands this module out replaces the text by its settings. It is a property so that no minifier can tell
 * that it is always a string and drop the code that reads it.
 */
const served: { settings: string | HeadcountOptions } = { settings: '__HEADCOUNT_DEFAULTS__' };

/**
 * What the page says wins over what the server says. Where the endpoints are is told best by the address of this module
 * if the server handed it out beside them: behind a proxy that adds a prefix, the server's own idea of the path is
 * wrong. The address of a copy elsewhere, recognised by a path that does not end as the server's does, tells nothing.
 */
export function resolve(options: HeadcountOptions): HeadcountOptions {
  const given = typeof served.settings === 'string' ? {} : served.settings;
  const [, url, basePath] = /^(https?:\/\/[^/]+)(.*)\/client\.js(?:[?#]|$)/.exec(import.meta.url) ?? [];
  const place = basePath?.endsWith(given.basePath ?? '') ? { url, basePath } : {};
  const said = Object.entries(options).filter(([, value]) => value !== undefined);
  return { ...given, ...place, ...Object.fromEntries(said) };
}

export function createSite(win: Window & typeof globalThis, settings: HeadcountOptions): Site {
  const { headers } = settings;
  const base = () => new URL(settings.basePath ?? '/__skew', settings.url ?? win.location.origin);
  return {
    url: (path) => base().href.replace(/\/*$/, path),
    get credentials() {
      return settings.credentials ?? (base().origin === win.location.origin ? 'same-origin' : 'include');
    },
    headers: typeof headers === 'function' ? headers : headers && (() => headers),
    backoff: { baseMs: 1000, capMs: 30_000, ...settings.backoff },
    // Looked up at each call: pages replace it to watch or to mock their traffic.
    fetch: (input, init) => (settings.fetch ?? win.fetch).call(win, input, init),
    EventSource: settings.EventSource ?? win.EventSource,
    WebSocket: settings.WebSocket ?? win.WebSocket,
  };
}
