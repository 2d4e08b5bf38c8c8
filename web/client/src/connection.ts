/**
 * Keeps one stream open for as long as it is wanted. The rules of reconnecting are here and nowhere else:
 *
 * - It is tried for ever, after a full-jitter delay. The delays start anew when a stream has lasted, not when one has
 *   opened: a server that accepts and crashes would otherwise be met without any back-off.
 * - `drain` names the delay itself. 1008 ends everything. 1012 and 1013 begin with a longer delay.
 * - Waiting ends at once when the network is back or when somebody looks at the page again, but never before a time that
 *   the server named (Retry-After, `retry:`).
 * - A stream that is silent for longer than the server promised is dead, whatever the browser thinks of it. After a
 *   sleep, or when somebody looks at the page again, less silence is enough; when the network was away, none is needed.
 * - A new stream names the one before it (`replaces`), so that the page is not counted twice while the server has not
 *   noticed that the old one is dead.
 * - A page that is left closes its stream, because a frozen page would still be counted; if it comes back from the
 *   back/forward cache, it opens a new one.
 */
import { backoffMs, toldMs } from './backoff.js';
import type { ClientMessage, ServerMessage, UpdateStrategy } from './messages.js';
import { openEventStream, openWebSocket, type Site, type Stream, type StreamEvents } from './transport.js';

export type Status = 'idle' | 'connecting' | 'open' | 'reconnecting' | 'closed';

export interface ConnectionEvents {
  /** What the next stream says of this page: asked anew each time, because the page moves on between streams. */
  query(): URLSearchParams;
  /** There is no stream now, and `status` says whether there will be one. */
  ended(status: 'reconnecting' | 'closed', error: string | null): void;
  /** `connected` is the first message of every stream, and comes once. `keepalive` and `pong` stay here. */
  message(message: ServerMessage): void;
  refused: StreamEvents['refused'];
}

/** `createConnection`, or what stands in for it: it gets `createConnection` as the first argument, to build upon. */
export type StreamFactory = (
  open: typeof createConnection,
  ...rest: Parameters<typeof createConnection>
) => Connection;

export interface Connection {
  /** Opens a stream at once, in place of the present one. */
  open(): void;
  close(): void;
  /** Only between `connected` and `ended`. */
  send(message: ClientMessage): void;
}

const DENIED = 1008;
const DRAINING = 1012;
const OVERLOADED = 1013;
/** What a browser reports when a handshake failed or a stream just broke off. */
const ABNORMAL = 1006;

/** A stream that held this long was no part of a crash loop. */
const STABLE_MS = 30_000;
/** Saying `connected` takes no time, but with HTTP/1.1 a browser opens six event streams and lets the seventh wait. */
const EVENT_STREAM_TIMEOUT_MS = 50_000;
const WEB_SOCKET_TIMEOUT_MS = 10_000;
/** One keepalive may be lost or late without harm. */
const SILENCE = 2.5;
/** The watchdog looks this often, because timers stand still while a device sleeps and the clock does not. */
const LOOK_MS = 4000;
/** A look that is later than this slept, unless the page is hidden: browsers let those wait. */
const LATE_MS = 10_000;
/** Overload concerns everybody at once: the first delay is drawn from 2^3 times the usual range, and they grow from there. */
const CROWD_ATTEMPT = 3;
/**
 * So does a restart, which is over soon: only the delay before the first attempt is longer, about what a server that drains
 * would say. From then on everybody comes at another time, and soon after the server is back.
 */
const DRAIN_ATTEMPT = 2;
/** So many WebSockets in a row that do not open mean that something in between does not let them. */
const SOCKET_ATTEMPTS = 2;

/** They keep the stream alive and mean nothing else. */
const SILENT = ['keepalive', 'pong'];
const PAGE_EVENTS = ['online', 'pagehide', 'pageshow'];
const DOCUMENT_EVENTS = ['visibilitychange', 'prerenderingchange', 'resume'];

export function createConnection(
  win: Window,
  site: Site,
  updateStrategy: UpdateStrategy,
  events: ConnectionEvents,
): Connection {
  const { navigator } = win;
  const document: Document & { prerendering?: boolean } = win.document;
  let stream: Stream | undefined;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let watchdog: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;
  /** The server does not want to see this page earlier. */
  let notBefore = 0;
  let failedSockets = 0;
  let told: unknown;
  let away = false;
  let handle: string | undefined;
  let blind = false;
  /** Says whether the stream has been silent for more than this part of what was promised. */
  let isSilent = (_part: number) => false;

  function open(): void {
    const replaced = stream;
    drop();
    // A page that is being prerendered is seen by nobody, and may never be.
    if (away || document.prerendering) return;

    const socket =
      !site.headers &&
      (updateStrategy === 'auto' ? told !== 'sse' && failedSockets < SOCKET_ATTEMPTS : updateStrategy === 'ws');
    let openedAt: number | undefined;
    let silenceMs: number | undefined = socket ? WEB_SOCKET_TIMEOUT_MS : EVENT_STREAM_TIMEOUT_MS;

    let heardAt = Date.now();
    isSilent = (part) => openedAt !== undefined && !!silenceMs && Date.now() - heardAt >= silenceMs * part;

    // In all of these what listeners are told comes last: they may close or reopen on the spot.
    const watch = () => {
      clearTimeout(watchdog);
      if (!silenceMs) return;
      const dueAt = Math.min(heardAt + silenceMs, Date.now() + LOOK_MS);
      watchdog = setTimeout(() => {
        const slept = Date.now() - dueAt > LATE_MS && !document.hidden;
        if (slept && isSilent(0.5)) open();
        else if (Date.now() - heardAt >= silenceMs!) ended('nothing came');
        else watch();
      }, dueAt - Date.now());
    };
    const received = (message: ServerMessage | undefined) => {
      const first = openedAt === undefined;
      heardAt = Date.now();
      if (message && first && message.type === 'connected') {
        openedAt = Date.now();
        silenceMs = toldMs(message.keepaliveMs);
        if (silenceMs) silenceMs *= SILENCE;
        if (socket) failedSockets = 0;
        told = message.updateStrategy;
        handle = message.connectionId as string;
        watch();
      }
      if (!message || openedAt === undefined) return;
      if (message.type === 'drain') plan(toldMs(message.reconnectMs) ?? backoffMs(DRAIN_ATTEMPT, site.backoff));
      if (message.type === 'connected' ? first : !SILENT.includes(message.type)) events.message(message);
    };
    const ended: StreamEvents['ended'] = (reason, code = ABNORMAL, afterMs = 0) => {
      const announced = retry !== undefined;
      const words = (what: string) => what + (reason && ': ' + reason);
      // While the device is offline a failure says nothing about WebSockets.
      if (socket && openedAt === undefined && code === ABNORMAL && navigator.onLine !== false) failedSockets++;
      // EventSource does not tell why it could not open, so the next one is read by fetch, which does.
      if (!socket && openedAt === undefined) blind = true;
      if (code === DENIED) {
        close();
        return events.ended('closed', words('The connection was denied'));
      }
      if (openedAt !== undefined && Date.now() - openedAt >= STABLE_MS) attempt = 0;
      if (code === OVERLOADED) attempt = Math.max(attempt, CROWD_ATTEMPT);
      stopStream();
      notBefore = Date.now() + afterMs;
      if (!announced) plan(afterMs + backoffMs(Math.max(attempt++, code === DRAINING ? DRAIN_ATTEMPT : 0), site.backoff));
      events.ended('reconnecting', announced ? null : words('The connection was lost'));
    };

    watch();
    try {
      const query = events.query();
      if (handle) query.set('replaces', handle);
      const heard: StreamEvents = { received, ended, refused: events.refused };
      stream = socket ? openWebSocket(site, query, heard) : openEventStream(site, query, heard, blind || !!site.headers);
      // Nothing must be sent on the new stream before it has said `connected`.
      if (replaced) events.ended('reconnecting', null);
    } catch (error) {
      // The browser lacks this API, or the page has an address that leads nowhere.
      ended(String(error));
    }
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
    // A network that was away may have taken the stream along without a word.
    const isGood = stream && !isSilent(type === 'online' ? 0 : 0.5);
    if (isGood || (type === 'visibilitychange' && document.hidden)) return;
    attempt = 0;
    if (Date.now() >= notBefore) open();
    else if (!retry) plan(notBefore - Date.now() + backoffMs(0, site.backoff));
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
