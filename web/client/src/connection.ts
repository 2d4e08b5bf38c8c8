/**
 * Keeps one stream open for as long as it is wanted. protocol/README.md, "Reconnecting", has the rule, and backoff.ts draws
 * the delays; this module has the streams and the clock.
 *
 * - 1008 ends everything.
 * - Waiting ends at once when the network is back or when the user looks at the page again, but never before a time that
 *   the server named (Retry-After, `retry:`).
 * - A stream that is silent for longer than the server promised is dead, even if the browser holds it open. After a
 *   sleep, or when the user looks at the page again, less silence is enough; when the network was away, none is needed.
 * - A new stream names the one before it (`replaces`), so that the page is not counted twice while the server has not
 *   noticed that the old one is dead.
 * - A page that is left closes its stream, because a frozen page would still be counted; if it comes back from the
 *   back/forward cache, it opens a new one.
 */
import { afterDrainMs, afterEnd, backoffMs, boundedMs } from './backoff.js';
import type { ClientMessage, ServerMessage, UpdateStrategy } from './messages.js';
import { openEventStream, openWebSocket, type Site, type Stream, type StreamEvents } from './transport.js';

export type Status = 'idle' | 'connecting' | 'open' | 'reconnecting' | 'closed';

export interface ConnectionEvents {
  /** The query of the next stream: called for each, because the page navigates between streams. */
  query(): URLSearchParams;
  /** There is no stream now, and `status` says whether there will be one. */
  ended(status: 'reconnecting' | 'closed', error: string | null): void;
  /** `connected` is the first message of every stream, and comes once. `keepalive` and `pong` are not passed on. */
  message(message: ServerMessage): void;
  refused: StreamEvents['refused'];
}

/** `createConnection`, or a replacement, which is given `createConnection` as its first argument. */
export type StreamFactory = (open: typeof createConnection, ...rest: Parameters<typeof createConnection>) => Connection;

export interface Connection {
  /** Opens a stream at once, in place of the present one. */
  open(): void;
  close(): void;
  /** Only between `connected` and `ended`. */
  send(message: ClientMessage): void;
}

/** Messages that are not passed on: the first `connected` is, and the others keep the stream alive and mean nothing else. */
const INTERNAL = ['connected', 'keepalive', 'pong'];
const PAGE_EVENTS = ['online', 'pagehide', 'pageshow'];
const DOCUMENT_EVENTS = ['visibilitychange', 'prerenderingchange', 'resume'];

export function createConnection(
  win: Window,
  site: Site,
  updateStrategy: UpdateStrategy,
  events: ConnectionEvents,
): Connection {
  // In here the bundler replaces constants by their values, which saves bytes.
  const DENIED = 1008;
  /** What a browser reports when a handshake failed or a stream just broke off. */
  const ABNORMAL = 1006;
  /** `connected` comes at once, but with HTTP/1.1 a browser opens six event streams and lets the seventh wait. */
  const EVENT_STREAM_TIMEOUT_MS = 50_000;
  const WEB_SOCKET_TIMEOUT_MS = 10_000;
  /** One keepalive may be lost or late without harm. */
  const SILENCE = 2.5;
  /** The watchdog checks this often, because timers stand still while a device sleeps and the clock does not. */
  const CHECK_MS = 4000;
  /** A check that is later than this shows that the device slept, unless the page is hidden: browsers delay its timers. */
  const LATE_MS = 10_000;
  /** After so many WebSockets in a row that do not open, something in between is taken not to let them through. */
  const SOCKET_ATTEMPTS = 2;

  const { navigator } = win;
  const { backoff } = site;
  const document: Document & { prerendering?: boolean } = win.document;
  let stream: Stream | undefined;
  /** Whether `stream` is a WebSocket. */
  let socket: boolean;
  /** When `connected` came on `stream`; 0: not yet. */
  let openedAt: number;
  /** When anything came on `stream`. */
  let heardAt: number;
  /** The longest silence that `stream` may keep; 0 or NaN: the server promised none. */
  let silenceMs: number;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let watchdog: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;
  /** The server does not want to see this page earlier. */
  let notBefore = 0;
  let failedSockets = 0;
  let serverStrategy: unknown;
  let away = false;
  let handle: string | undefined;
  /** EventSource does not say why it could not open, so the next event stream is read by fetch, which does. */
  let byFetch = false;

  function open(): void {
    const replaced = stream;
    drop();
    // No user sees a page that is being prerendered, and perhaps none ever will.
    if (away || document.prerendering) return;

    socket =
      !site.headers &&
      (updateStrategy === 'auto'
        ? serverStrategy !== 'sse' && failedSockets < SOCKET_ATTEMPTS
        : updateStrategy === 'ws');
    openedAt = 0;
    heardAt = Date.now();
    silenceMs = socket ? WEB_SOCKET_TIMEOUT_MS : EVENT_STREAM_TIMEOUT_MS;
    watch();
    try {
      const query = events.query();
      if (handle) query.set('replaces', handle);
      const streamEvents: StreamEvents = { received, ended, refused: events.refused };
      stream = socket
        ? openWebSocket(site, query, streamEvents)
        : openEventStream(site, query, streamEvents, byFetch || !!site.headers);
      // Nothing must be sent on the new stream before it has said `connected`.
      if (replaced) events.ended('reconnecting', null);
    } catch (error) {
      // The browser lacks this API, or the page's URL cannot be a base.
      ended(String(error));
    }
  }

  /** Whether the stream has been silent for this part of the promised time. */
  function isSilent(part: number): boolean {
    return !!silenceMs && Date.now() - heardAt >= silenceMs * part;
  }

  // Each function below calls listeners last, because a listener may close or reopen at once.

  function watch(): void {
    clearTimeout(watchdog);
    if (!silenceMs) return;
    const dueAt = Math.min(heardAt + silenceMs, Date.now() + CHECK_MS);
    watchdog = setTimeout(() => {
      const slept = Date.now() - dueAt > LATE_MS && !document.hidden;
      if (slept && isSilent(0.5)) open();
      else if (isSilent(1)) ended('nothing came');
      else watch();
    }, dueAt - Date.now());
  }

  function received(message: ServerMessage | undefined): void {
    const connects = !openedAt && message?.type === 'connected';
    heardAt = Date.now();
    if (connects) {
      openedAt = heardAt;
      silenceMs = boundedMs(message.keepaliveMs)! * SILENCE;
      if (socket) failedSockets = 0;
      serverStrategy = message.updateStrategy;
      handle = message.connectionId as string;
      watch();
    }
    if (!message || !openedAt) return;
    if (message.type === 'drain') {
      attempt = 0;
      plan(afterDrainMs(message.reconnectMs, backoff));
    }
    if (connects || !INTERNAL.includes(message.type)) events.message(message);
  }

  function ended(reason: string, code = ABNORMAL, namedMs = 0): void {
    const suffix = reason && ': ' + reason;
    if (!openedAt) {
      if (!socket) byFetch = true;
      // While the device is offline a failure says nothing about WebSockets.
      else if (code === ABNORMAL && navigator.onLine !== false) failedSockets++;
    }
    if (code === DENIED) {
      close();
      return events.ended('closed', 'The connection was denied' + suffix);
    }
    stopStream();
    notBefore = Date.now() + namedMs;
    // `drain` has planned the next stream, and its end is no error.
    const error = retry ? null : 'The connection was lost' + suffix;
    if (!retry) {
      let delayMs: number;
      [delayMs, attempt] = afterEnd(attempt, openedAt && Date.now() - openedAt, code, namedMs, backoff);
      plan(delayMs);
    }
    events.ended('reconnecting', error);
  }

  function plan(delayMs: number): void {
    clearTimeout(retry);
    retry = setTimeout(open, delayMs);
  }

  function stopStream(): void {
    clearTimeout(watchdog);
    stream?.close();
    stream = undefined;
  }

  function drop(): void {
    clearTimeout(retry);
    retry = undefined;
    stopStream();
  }

  function onPageEvent({ type }: Event): void {
    if (type === 'pagehide') {
      away = true;
      drop();
      return events.ended('reconnecting', null);
    }
    if (type === 'pageshow') away = false;
    // A network that was away may have cut the stream without an event.
    const isGood = stream && !(openedAt && isSilent(type === 'online' ? 0 : 0.5));
    if (isGood || (type === 'visibilitychange' && document.hidden)) return;
    attempt = 0;
    if (Date.now() >= notBefore) open();
    else plan(notBefore - Date.now() + backoffMs(0, backoff));
  }

  function close(): void {
    for (const type of PAGE_EVENTS) win.removeEventListener(type, onPageEvent);
    for (const type of DOCUMENT_EVENTS) document.removeEventListener(type, onPageEvent);
    away = false;
    drop();
  }

  return {
    open() {
      for (const type of PAGE_EVENTS) win.addEventListener(type, onPageEvent);
      for (const type of DOCUMENT_EVENTS) document.addEventListener(type, onPageEvent);
      attempt = 0;
      open();
    },
    close,
    send: (message) => stream?.send(message),
  };
}
