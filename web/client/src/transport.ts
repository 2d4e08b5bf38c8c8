/**
 * One stream, by EventSource or by WebSocket, behind one interface. A stream lives once: it never reconnects, and
 * after `close()` or `ended` it says nothing more, whatever the browser still delivers.
 */
import { backoffMs, toldMs, type Backoff } from './backoff.js';
import { decode, type ClientMessage, type ServerMessage } from './messages.js';

/** How the server is reached. */
export interface Site {
  /** Absolute URL of `path` below the base path. Throws when the page has no usable address. */
  url(path: string): string;
  readonly credentials: RequestCredentials;
  readonly backoff: Backoff;
  readonly fetch: typeof fetch;
  readonly EventSource: typeof EventSource;
  readonly WebSocket: typeof WebSocket;
}

export interface StreamEvents {
  /** Something came; undefined when it was not a message, which still proves that the stream is alive. */
  received(message: ServerMessage | undefined): void;
  /** The stream is over. `code` is a WebSocket's. */
  ended(reason: string, code?: number): void;
  /** The server will not do what was asked for, and asking again would not help. */
  refused(message: ClientMessage, status: number): void;
}

export interface Stream {
  /** Only after `connected` has come. */
  send(message: ClientMessage): void;
  close(): void;
}

/** Longer than this and a POST hangs: its lane would be blocked for as long as the stream lives. */
const POST_TIMEOUT_MS = 20_000;

export function openWebSocket(site: Site, query: URLSearchParams, events: StreamEvents): Stream {
  // A page is http: or https:, and ws: or wss: is the same with other letters in front.
  const socket = new site.WebSocket(site.url('/ws?' + query).replace(/^http/, 'ws'));
  let closed = false;

  socket.onmessage = ({ data }) => {
    if (!closed) events.received(decode(data));
  };
  // An `error` is always followed by `close`, which knows more.
  socket.onclose = ({ code, reason }) => {
    if (closed) return;
    closed = true;
    events.ended(reason, code);
  };

  return {
    send: (message) => socket.send(JSON.stringify(message)),
    close() {
      closed = true;
      socket.close();
    },
  };
}

export function openEventStream(site: Site, query: URLSearchParams, events: StreamEvents): Stream {
  // EventSource cannot see comments, so keepalives are asked for as messages.
  query.set('keepalive', 'message');
  const source = new site.EventSource(site.url('/sse?' + query), {
    withCredentials: site.credentials === 'include',
  });
  let connectionId: unknown;
  let closed = false;

  const close = () => {
    closed = true;
    source.close();
    routes.close();
    subscription.close();
  };
  const end = (reason: string) => {
    if (closed) return;
    close();
    events.ended(reason);
  };
  const post: Post = (message, signal) => {
    const { type, ...fields } = message;
    return site.fetch(site.url(type === 'route-update' ? '/route' : '/' + type), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      credentials: site.credentials,
      body: JSON.stringify({ connectionId, ...fields }),
      signal,
    });
  };
  const routes = openLane(post, site.backoff, end, events.refused);
  const subscription = openLane(post, site.backoff, end, events.refused);

  source.onmessage = ({ data }) => {
    if (closed) return;
    const message = decode(data);
    if (message?.type === 'connected') connectionId = message.connectionId;
    events.received(message);
  };
  // Closing also stops the browser's own retry, which would come back with the route of long ago.
  source.onerror = () => end('');

  return {
    send: (message) => (message.type === 'route-update' ? routes : subscription).send(message),
    close,
  };
}

type Post = (message: ClientMessage, signal: AbortSignal) => Promise<Response>;

/**
 * Sends messages one after the other: two POSTs under way at once may arrive in either order. While one is under way
 * only the newest waits, because it replaces what came before it.
 */
function openLane(
  post: Post,
  backoff: Backoff,
  lost: (reason: string) => void,
  refused: StreamEvents['refused'],
): Stream {
  let waiting: ClientMessage | undefined;
  let busy = false;
  let attempt = 0;
  let closed = false;
  let timer: ReturnType<typeof setTimeout>;
  let request: AbortController;

  async function next(): Promise<void> {
    const message = waiting;
    busy = !!message;
    if (!message) return;
    waiting = undefined;
    request = new AbortController();
    timer = setTimeout(() => request.abort(), POST_TIMEOUT_MS);
    let response: Response | undefined;
    try {
      response = await post(message, request.signal);
    } catch {
      // The network failed. The stream may outlive that, and then the server must still be told.
    }
    clearTimeout(timer);
    if (closed) return;

    const status = response?.status ?? 503;
    if (status === 404) return lost('the server does not know this connection');
    if (status === 429 || status >= 500) {
      waiting ??= message;
      timer = setTimeout(next, retryAfterMs(response) + backoffMs(attempt++, backoff));
      return;
    }
    attempt = 0;
    if (status >= 400) refused(message, status);
    return next();
  }

  return {
    send(message) {
      waiting = message;
      if (!busy) next();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      request?.abort();
    },
  };
}

/** Seconds or a date; 0 when there is neither, or when another origin does not show it. */
function retryAfterMs(response: Response | undefined): number {
  const value = response?.headers.get('retry-after') ?? '';
  return toldMs(+value * 1000) ?? toldMs(Date.parse(value) - Date.now()) ?? 0;
}
