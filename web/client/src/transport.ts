/**
 * One stream, by EventSource, fetch or WebSocket, behind one interface. A stream never reconnects, and after `close()` or
 * `ended` it calls back no more, whatever the browser still delivers. Tests: test/transport.test.ts, test/fetch.test.ts.
 */
import { type Backoff, backoffMs, boundedMs, retryAfterMs } from './backoff.js';
import { type ClientMessage, decode, type ServerMessage } from './messages.js';

/** How the server is reached. */
export interface Site {
  /** Absolute URL of `path` below the base path. Throws when the page has no usable address. */
  url(path: string): string;
  readonly credentials: RequestCredentials;
  readonly backoff: Backoff;
  readonly fetch: typeof fetch;
  /** Sent with every request. EventSource and WebSocket cannot send headers, so fetch reads the stream then. */
  readonly headers: (() => HeadersInit | Promise<HeadersInit>) | undefined;
  readonly EventSource: typeof EventSource;
  readonly WebSocket: typeof WebSocket;
}

export interface StreamEvents {
  /** Data came; undefined when it was not a message, which still proves that the stream is alive. */
  received(message: ServerMessage | undefined): void;
  /** The stream has ended. `code` is a WebSocket close code; do not reconnect before `afterMs`. */
  ended(reason: string, code?: number, afterMs?: number): void;
  /** The server refused the message for good; sending it again would not help. */
  refused(message: ClientMessage, status: number): void;
}

export interface Stream {
  /** Only after `connected` has come. */
  send(message: ClientMessage): void;
  close(): void;
}

/** A POST that takes longer is aborted and sent again, or it would block its lane for as long as the stream lives. */
const POST_TIMEOUT_MS = 20_000;

/** Sent in a lane of their own, so that a subscription that waits is not replaced by a route. */
const PAGE_STATE = ['tabs', 'route-update'];

export function openWebSocket(site: Site, query: URLSearchParams, events: StreamEvents): Stream {
  // http: becomes ws:, and https: becomes wss:.
  const socket = new site.WebSocket(site.url('/ws?' + query).replace(/^http/, 'ws'));
  let closed = false;

  socket.onmessage = ({ data }) => {
    if (!closed) events.received(decode(data));
  };
  // An `error` is always followed by `close`, which has the code and the reason.
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

/** `byFetch`: read by fetch, which shows the status of a failed request; EventSource hides it. */
export function openEventStream(site: Site, query: URLSearchParams, events: StreamEvents, byFetch: boolean): Stream {
  // EventSource does not show comments, so keepalives are requested as messages.
  query.set('keepalive', 'message');
  let connectionId: unknown;
  let closed = false;

  const close = () => {
    closed = true;
    stop();
    page.close();
    stats.close();
  };
  const end: StreamEvents['ended'] = (...why) => {
    if (closed) return;
    close();
    events.ended(...why);
  };
  const onData = (data: string) => {
    if (closed) return;
    const message = decode(data);
    if (message?.type === 'connected') connectionId = message.connectionId;
    events.received(message);
  };
  const post: Post = async (message, signal) => {
    const { type, ...fields } = message;
    const headers = new Headers(site.headers && (await site.headers()));
    headers.set('content-type', 'application/json');
    return site.fetch(site.url(type === 'route-update' ? '/route' : '/' + type), {
      method: 'POST',
      headers,
      credentials: site.credentials,
      body: JSON.stringify({ connectionId, ...fields }),
      signal,
    });
  };
  const page = openLane(post, site.backoff, end, events.refused);
  const stats = openLane(post, site.backoff, end, events.refused);
  const stop = (byFetch ? fetchEvents : sourceEvents)(site, site.url('/sse?' + query), onData, end);

  return {
    send: (message) => (PAGE_STATE.includes(message.type) ? page : stats).send(message),
    close,
  };
}

/** Reads an event stream until the function that it returns is called. */
type Source = (site: Site, url: string, onData: (data: string) => void, end: StreamEvents['ended']) => () => void;

const sourceEvents: Source = (site, url, onData, end) => {
  const source = new site.EventSource(url, { withCredentials: site.credentials === 'include' });
  source.onmessage = ({ data }) => onData(data);
  // `end` closes it, which also stops the browser's own retry: that would send an old route.
  source.onerror = () => end('');
  return () => source.close();
};

const fetchEvents: Source = (site, url, onData, end) => {
  const request = new AbortController();
  const read = async () => {
    const response = await site.fetch(url, {
      headers: site.headers ? await site.headers() : {},
      credentials: site.credentials,
      cache: 'no-store',
      signal: request.signal,
    });
    const { status, body } = response;
    if (!response.ok || !body) {
      // 403 means that this origin is not allowed, so a retry would fail too.
      return end('the server answered ' + status, status === 403 ? 1008 : undefined, retryAfterMs(response));
    }
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    let data: string[] = [];
    let retry: number | undefined;
    for (let chunk: ReadableStreamReadResult<string>; !(chunk = await reader.read()).done; ) {
      // A CR at the end may be one half of a line break.
      const lines = (text + chunk.value).split(/\r\n|\n|\r(?!$)/);
      text = lines.pop()!;
      for (const line of lines) {
        const [, field, value] = /^(data|retry)(?:: ?(.*))?$/.exec(line) ?? [];
        if (field === 'data') data.push(value || '');
        if (field === 'retry') retry = boundedMs(+(value || NaN));
        if (line) continue;
        // Also without data, after a comment: it proves that the stream is alive.
        onData(data.join('\n'));
        data = [];
      }
    }
    end('', undefined, retry);
  };
  read().catch(() => end(''));
  return () => request.abort();
};

type Post = (message: ClientMessage, signal: AbortSignal) => Promise<Response>;

/**
 * Sends messages one after the other: two POSTs under way at once may arrive in either order. While one is under way
 * only the newest waits, because it replaces what came before it.
 */
function openLane(post: Post, backoff: Backoff, lost: StreamEvents['ended'], refused: StreamEvents['refused']): Stream {
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
      // The network failed. The stream may survive that, so the message is sent again below.
    }
    clearTimeout(timer);
    if (closed) return;

    const status = response?.status ?? 503;
    if (status === 404) return lost('the server does not know it');
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
