/**
 * One stream, by fetch or WebSocket, behind one interface. A stream never reconnects. After `close()` it may still call back
 * with what was on its way, which the caller ignores; after `ended` the caller must close it. Tests: test/transport.test.ts, test/fetch.test.ts.
 *
 * Event streams are not read by EventSource: Firefox and WebKit end one without an event when the user follows a link to a
 * download, and it shows neither the status nor the type of an answer that is no stream.
 */
import { afterEnd, type Backoff, isRefusal, retryAfterMs } from './backoff.js';
import { type ClientMessage, decode, type ServerMessage } from './messages.js';

/** How the server is reached. */
export interface Site {
  /** Absolute URL of `path` below the base path. Throws when the page has no usable address. */
  url(path: string): string;
  /** Of the page; `null` in a sandboxed frame. */
  readonly origin: string;
  readonly credentials: RequestCredentials;
  readonly backoff: Backoff;
  readonly fetch: typeof fetch;
  /** Sent with every request. WebSockets cannot send headers, so the stream is one of events then. */
  readonly headers: (() => HeadersInit | Promise<HeadersInit>) | undefined;
  /** What the server that served the module prefers. */
  readonly preferred: unknown;
  readonly WebSocket: typeof WebSocket;
}

export interface StreamEvents {
  /** Data came; undefined when it was not a message, which still proves that the stream is alive. First: it has opened. */
  received(message?: ServerMessage): void;
  /**
   * The stream has ended.
   *
   * @param reason A sentence, or '' when nothing is known.
   * @param code A WebSocket close code, or the HTTP status of an answer that is no stream.
   * @param afterMs Do not reconnect earlier.
   */
  ended(reason: string, code?: number, afterMs?: number): void;
  /**
   * How a message fared that did not arrive at once: the server refused it for good (`status` is from 400 to 499), it has
   * not reached the server and is sent again (0), or a later one has arrived (200).
   *
   * @param error A sentence; null when it has arrived.
   */
  refused(message: ClientMessage, status: number, error: string | null): void;
}

export interface Stream {
  /** Only after `connected` has come; `connectionId` is from there. */
  send(message: ClientMessage, connectionId?: string): void;
  /** With 1000, a WebSocket says that the page leaves; without, that this stream is given up. */
  close(code?: number): void;
}

/** A POST that takes longer is aborted and sent again, or it would block its lane for as long as the stream lives. */
const POST_TIMEOUT_MS = 20_000;

/** For the reconnecting rule: what the browser forbids will be forbidden the next time, like what answers 403. */
export const FORBIDDEN = 403;

/** A POST that has not reached the server so many times in a row is reported. */
const POSTS_LOST = 3;

/**
 * @param careful Ask first whether the server is there. Firefox lets a WebSocket wait before it opens it, for up to a minute, where
 *   others could not be opened before.
 */
export function openWebSocket(site: Site, query: URLSearchParams, events: StreamEvents, careful: unknown): Stream {
  const aborter = new AbortController();
  const { signal } = aborter;
  let socket: WebSocket | undefined;
  // A browser hides why a WebSocket could not be opened, and what answered instead. So the page asks the same address by GET,
  // and says its origin, because browsers leave it out there and the server may have refused it.
  const ask = (end: StreamEvents['ended']) => readEvents(site, '/ws?origin=' + site.origin, signal, decode, end);
  const open = () => {
    // http: becomes ws:, and https: becomes wss:.
    const own = (socket = new site.WebSocket(site.url('/ws?' + query).replace(/^http/, 'ws')));
    // `error` comes before `close`; where the page's Content Security Policy forbids the socket, Chromium fires no `close`.
    own.onerror = () => ask(events.ended);
    own.onopen = () => {
      // Servers that cannot send 1008, 1012 and 1013 (daphne) send 4008, 4012 and 4013. No other code above 3000 has a meaning here.
      own.onclose = own.onerror = ({ code, reason }: Partial<CloseEvent>) =>
        events.ended(reason!, code! % 3000 || code);
      events.received();
    };
    own.onmessage = ({ data }) => events.received(decode(data));
  };
  // Whatever answers may pass WebSockets on, but a proxy without a server. What is closed opens nothing that nobody would close.
  if (careful) ask((...why) => (why[1]! < 500 && !signal.aborted ? open() : events.ended(...why)));
  else open();

  return {
    send: (message) => socket!.send(JSON.stringify(message)),
    close(code) {
      aborter.abort();
      socket?.close(code);
    },
  };
}

export function openEventStream(site: Site, query: URLSearchParams, events: StreamEvents): Stream {
  const aborter = new AbortController();
  let connectionId: unknown;
  const page = openLane(site, () => connectionId, events);
  const stats = openLane(site, () => connectionId, events);
  readEvents(site, '/sse?' + query, aborter.signal, (data) => events.received(decode(data)), events.ended);

  return {
    send(message, handle) {
      connectionId = handle;
      const { type } = message;
      // Each replaces nothing and is sent once: if it is lost, the server counts too few.
      if (/^(ack|rel)/.test(type)) {
        const body = JSON.stringify({ connectionId, ...message });
        request(site, '/' + type, aborter.signal, body).catch(() => {});
      }
      // Each in a lane of its own, so that a route does not replace a subscription that waits.
      else (/-stats/.test(type) ? stats : page).send(message);
    },
    close() {
      aborter.abort();
      page.close();
      stats.close();
    },
  };
}

/** Sends a POST, or without a body a GET. Resolves to nothing if there is no answer, and rejects if `headers` fails. */
async function request(site: Site, path: string, signal: AbortSignal, body?: string): Promise<Response | undefined> {
  const headers = new Headers(site.headers && (await site.headers()));
  if (body) headers.set('content-type', 'application/json');
  const init = {
    method: body && 'POST',
    headers,
    credentials: site.credentials,
    cache: 'no-store',
    body,
    signal,
  } as RequestInit;
  return site.fetch(site.url(path), init).catch(() => undefined);
}

function typeOf(response: Response | undefined): string {
  return (response?.headers.get('content-type') || 'nothing').split(';')[0]!;
}

/** Says what an answer is that is not the one asked for, with the sentence in it, if it is an error of Headcount. */
async function described(site: Site, path: string, response: Response): Promise<string> {
  const { status } = response;
  const { detail } = /problem/.test(typeOf(response)) ? await response.json().catch(Object) : response;
  const hint = detail ? ': ' + detail : isRefusal(status) ? '. Is it passed on to Headcount?' : '.';
  return `${site.url(path)} answered ${status} (${typeOf(response)})` + hint;
}

/** What is wrong where a page on https asks a server on http. Browsers forbid that, except on the same machine. */
export function mixedContent(site: Site): string {
  const url = site.url('');
  return /^https/.test(site.origin) && /^http:..(?!localhost|127\.)/.test(url)
    ? `A page on https may not use ${url}. Serve Headcount on https.`
    : '';
}

/** Why a request had no answer, as far as a browser lets a page know. '' and no status: the network or the server is away. */
async function unanswered(site: Site, url: string, signal: AbortSignal): Promise<[reason: string, status?: number]> {
  let reason = mixedContent(site);
  try {
    // The browser does not show the answer of another origin here either, but that there is one.
    const { type } = await site.fetch(site.url('/health'), { mode: 'no-cors', cache: 'no-store', signal });
    if (type === 'opaque') {
      reason = url.startsWith(site.origin + '/')
        ? `${url} is redirected to another origin. Does something ask for a log-in?`
        : `${url} answers, but the browser hides it from pages of ${site.origin} (CORS); add that origin to allowed_origins.`;
    }
  } catch {
    // Nothing is known beyond what was known before.
  }
  return reason ? [reason, FORBIDDEN] : [''];
}

/** Reads an event stream until it ends or the signal aborts it. */
function readEvents(
  site: Site,
  path: string,
  signal: AbortSignal,
  onData: (data: string) => void,
  end: StreamEvents['ended'],
): void {
  // Here, so that it is the caller to whom it throws.
  const url = site.url('');
  const read = async () => {
    const response = await request(site, path, signal);
    if (!response) return end(...(await unanswered(site, url, signal)));
    const { status } = response;
    if (status + typeOf(response) !== '200text/event-stream') {
      return end(await described(site, '', response), status, retryAfterMs(response));
    }
    onData('');
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    let data = '';
    for (let chunk: ReadableStreamReadResult<string>; !(chunk = await reader.read()).done; ) {
      // A CR at the end may be one half of a line break.
      const lines = (text + chunk.value).split(/\r\n|\n|\r(?!$)/);
      text = lines.pop()!;
      for (const line of lines) {
        // A value may begin with a space and end in a line break: to JSON both are nothing.
        if (line) data += /^data:/.test(line) ? line.slice(5) + '\n' : '';
        else {
          // Also without data, after a comment: it proves that the stream is alive.
          onData(data);
          data = '';
        }
      }
    }
    end('');
  };
  read().catch(() => end(''));
}

/**
 * Sends messages one after the other: two POSTs under way at once may arrive in either order. While one is under way
 * only the newest waits, because it replaces what came before it. `posts` in protocol/fixtures/reconnect.json has what each answer
 * means.
 */
function openLane(site: Site, connectionId: () => unknown, { ended, refused }: StreamEvents): Stream {
  let waiting: ClientMessage | undefined;
  let busy = false;
  let attempt = 0;
  /** It was said that messages do not arrive. */
  let isReported = false;
  let closed = false;
  let timer: ReturnType<typeof setTimeout>;
  let aborter: AbortController;

  async function next(): Promise<void> {
    const message = waiting;
    busy = !!message;
    if (!message) return;
    waiting = undefined;
    aborter = new AbortController();
    timer = setTimeout(() => aborter.abort(), POST_TIMEOUT_MS);
    const { type, ...fields } = message;
    const path = '/' + type.replace('-update', '');
    const body = JSON.stringify({ connectionId: connectionId(), ...fields });
    // The page may fail to make the headers. Like after a failure of the network, the message is sent again below.
    const response = await request(site, path, aborter.signal, body).catch(() => undefined);
    const status = response?.status ?? 0;
    const kind = status + typeOf(response);
    // The page of an application, a log-in, another API: whatever answers, only Headcount says this.
    const isDone = kind === '200application/json' && (await response!.json().catch(Object))?.ok === true;
    const error = isDone
      ? null
      : response
        ? await described(site, path, response)
        : `${site.url(path)} did not answer (network or CORS).`;
    clearTimeout(timer);
    if (closed) return;

    const isOwn = /problem/.test(kind);
    // Another process holds the stream, or it has just ended. What is not Headcount does not know that.
    if (isOwn && status === 404) return ended('');
    const isRefused = isRefusal(status);
    const isOver = isDone || (isOwn && isRefused);
    let delayMs: number;
    [delayMs, attempt] = afterEnd(attempt, 0, 0, retryAfterMs(response), isRefused, site.backoff);
    const tells = isReported || (!isDone && (isRefused || attempt >= POSTS_LOST));
    isReported = tells && !isDone;
    if (isOver) {
      attempt = 0;
      next();
    } else {
      waiting ??= message;
      timer = setTimeout(next, delayMs);
    }
    if (tells) refused(message, isOver ? status : 0, error);
  }

  return {
    send(message) {
      waiting = message;
      if (!busy) next();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      aborter?.abort();
    },
  };
}
