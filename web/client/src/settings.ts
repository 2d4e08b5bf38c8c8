/**
 * The options of a client, their defaults, and the server that they lead to. Tests: test/package.test.ts for the settings that
 * a server writes into client.js, test/index.test.ts and test/transport.test.ts for the others.
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
  /** `auto` (default): what the server prefers, else WebSocket; the other kind where that does not deliver. */
  updateStrategy?: UpdateStrategy | undefined;
  /** Reports the path of the page whenever it changes; `hash`: the path in its fragment, as in `#/a`. Default false. */
  routeTracking?: boolean | 'hash' | undefined;
  /**
   * Reports what this function returns instead, such as a router's pattern `/order/:id`. It is called after each navigation
   * and for each stream.
   */
  route?: (() => string) | undefined;
  /** Receives deltas instead of whole statistics. Default true. */
  deltas?: boolean | undefined;
  /** The page watches and is not counted. The server closes the stream if it is not authorised. */
  viewer?: boolean | undefined;
  /** Default `same-origin`; with a server of another origin `include`, or no cookies would be sent. */
  credentials?: RequestCredentials | undefined;
  /**
   * Sent with every request, such as `{ authorization: 'Bearer …' }`; a function is asked anew each time. Streams are then
   * SSE, because WebSockets cannot send headers.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>) | undefined;
  /** Default: one stream per page. `shared` of `headcount-client/shared`: one per browser. */
  stream?: StreamFactory | undefined;
  /** Default 1,000 and 30,000 ms. */
  backoff?: Partial<Backoff> | undefined;
  // Default: the page's own. Tests replace them.
  window?: (Window & typeof globalThis) | undefined;
  WebSocket?: typeof WebSocket | undefined;
  fetch?: typeof fetch | undefined;
}

/**
 * The server replaces this text by its settings when it serves the module. It is a property, because a minifier would take a
 * constant for a string and drop the code that reads it.
 */
const served: { settings: string | HeadcountOptions } = { settings: '__HEADCOUNT_DEFAULTS__' };

/**
 * Merges the options: the page's win over the address of this module, which wins over the server's settings. The server
 * serves the module beside its endpoints, so the address contains a prefix that a proxy adds and the server does not know.
 * The address of a copy elsewhere does not end with the server's base path and is ignored.
 */
export function resolve(options: HeadcountOptions): HeadcountOptions {
  const fromServer = typeof served.settings === 'string' ? {} : served.settings;
  const [, url, basePath] = /^(https?:\/\/[^/]+)(.*)\/client\.js/.exec(import.meta.url) ?? [];
  const fromAddress = basePath?.endsWith(fromServer.basePath ?? '') ? { url, basePath } : {};
  const settings: Record<string, unknown> = { ...fromServer, ...fromAddress };
  for (const name in options) settings[name] = options[name as keyof HeadcountOptions] ?? settings[name];
  return settings;
}

export function createSite(win: Window & typeof globalThis, settings: HeadcountOptions): Site {
  const { headers } = settings;
  const base = () => new URL(settings.basePath ?? '/__skew', settings.url ?? win.location.origin);
  return {
    url: (path) => base().href.replace(/\/*$/, path),
    origin: win.origin,
    get credentials() {
      return settings.credentials ?? (win.location.origin === base().origin ? 'same-origin' : 'include');
    },
    headers: typeof headers === 'function' ? headers : headers && (() => headers),
    // What the page chooses is obeyed; what the server chooses is a preference, and the other kind is tried, too.
    preferred: settings.updateStrategy,
    backoff: { baseMs: 1000, capMs: 30_000, ...settings.backoff },
    // Looked up at each call, because pages replace it to observe or to mock their traffic.
    fetch: (input, init) => (settings.fetch ?? win.fetch).call(win, input, init),
    WebSocket: settings.WebSocket ?? win.WebSocket,
  };
}
