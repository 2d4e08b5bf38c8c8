/**
 * Keeps one stream open for as long as it is wanted. protocol/README.md, "Reconnecting", has the rule, and backoff.ts draws
 * the delays; this module has the streams and the clock.
 *
 * - 1008 ends everything.
 * - Waiting ends at once when the user looks at the page again, and within a second when the network is back, but never
 *   before a time that the server named (`drain`, Retry-After, `retry:`) or that follows an overload or a fault.
 * - With `auto`, WebSocket and SSE are tried in turn until one delivers `connected`, the second one at once. The kind that the
 *   server prefers is avoided once it has missed twice while the server was up; the browser remembers that for a day.
 * - Where something ends all streams after the same time, the next stream is opened shortly before, and takes over when it has
 *   delivered `connected`. To the listener it is one stream, which says `connected` again. limit.ts finds the time.
 * - A stream that is silent for longer than the server promised is dead, even if the browser holds it open. After a
 *   sleep, or when the user looks at the page again, less silence is enough; when the network was away, none is needed.
 * - A new stream names the one before it (`replaces`), so that the page is not counted twice while the server has not
 *   noticed that the old one is dead.
 * - A page that is left closes its stream, because a frozen page would still be counted, and says goodbye, because a stream
 *   that just ends may have been cut; if it comes back from the back/forward cache, it opens a new one.
 */
import { afterDrainMs, afterEnd, backoffMs, boundedMs, isCut, isRefusal } from './backoff.js';
import { createLimit } from './limit.js';
import type { ClientMessage, ReleaseReply, ServerMessage, UpdateStrategy } from './messages.js';
import {
  FORBIDDEN,
  mixedContent,
  openEventStream,
  openWebSocket,
  type Site,
  type Stream,
  type StreamEvents,
} from './transport.js';

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

/** Messages that keep the stream alive and mean nothing else. */
const INTERNAL = ['keepalive', 'pong'];
/** Of the window and of the document: each comes to one of them, and `visibilitychange` to both, which changes nothing. */
const PAGE_EVENTS = 'online focus pagehide pageshow visibilitychange prerenderingchange resume beforeunload'.split(' ');

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
  /** Not a close code: the page itself gave the stream up. */
  const SILENT = 0;
  /** With HTTP/1.1 a browser opens six event streams and lets the seventh wait. */
  const LONGEST_PATIENCE_MS = 50_000;
  const OPEN_TIMEOUT_MS = 10_000;
  /** `connected` follows the opening at once, unless something holds it back. */
  const DELIVERY_TIMEOUT_MS = 5000;
  /** If a successor has not delivered after this time, the old stream stays to its end. */
  const RENEWAL_TIMEOUT_MS = 10_000;
  /** One keepalive may be lost or late without harm. */
  const SILENCE = 2.5;
  /** The watchdog checks this often, because timers stand still while a device sleeps and the clock does not. */
  const CHECK_MS = 4000;
  /** A check that is later than this shows that the device slept, unless the page is hidden: browsers delay its timers. */
  const LATE_MS = 10_000;
  /** After the first failure in a row, the other kind is tried this soon. */
  const OTHER_WAY_MS = 100;
  /** A kind of stream is avoided after so many times that it did not deliver and the other kind did right after. */
  const MISSES = 2;
  const MEMORY_UNIT_MS = 1e13;
  /** For how long a browser avoids a kind of stream before it tries that again: a day. */
  const MEMORY = 8.64e-6;
  /** A stream that ends within this time of `beforeunload` may have been ended by it. */
  const FEINT_MS = 5000;
  /** One that is opening then is given up after this time, because Firefox ends a WebSocket without an event. */
  const FEINT_PATIENCE_MS = 800;
  /** So many in a minute have no longer delay. */
  const FEINTS = 10;
  const MINUTE_MS = 60_000;

  const { navigator } = win;
  const { backoff } = site;
  const document: Document & { prerendering?: boolean } = win.document;
  const limit = createLimit();
  const isAuto = updateStrategy === 'auto' && !site.headers;
  let stream: Stream | undefined;
  /** Takes over from `stream` when it has delivered `connected`. */
  let successor: Stream | undefined;
  /** Whether the newest stream is a WebSocket. */
  let socket = false;
  /** When `connected` came on `stream`; 0: not yet. */
  let openedAt: number;
  /** When anything came on `stream`. */
  let heardAt: number;
  /** The longest silence that `stream` may keep; 0 or NaN: the server promised none. */
  let silenceMs: number;
  /** Opens the next stream; or, while `stream` is open, its successor, and gives that up. */
  let timer: ReturnType<typeof setTimeout> | undefined;
  let watchdog: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;
  /** The server does not want to see this page earlier. */
  let notBefore = 0;
  /** `drain` has planned the stream after the present one. */
  let drained: boolean;
  let serverStrategy = site.preferred;
  /** The newest stream has opened; only `connected` is a delivery. */
  let hasOpened: boolean;
  /**
   * Whether the newest stream did not deliver, and whether that is due to its kind: 0: it delivered, or what failed has nothing
   * to do with its kind; 1: the server may have been away; 2: it is due to its kind, if the next stream delivers.
   */
  let failed = 0;
  /** Times in a row that the preferred kind did not deliver though the server was up. */
  let misses = 0;
  let away = false;
  /**
   * When the user began to leave the page, which they may not leave after all: a download, 204, `mailto:`. Firefox and WebKit end
   * its streams then.
   */
  let leftAt = 0;
  /** Each end that follows takes a tenth of a minute, of at most the last one. */
  let feintsUntil = 0;
  let handle: string | undefined;

  try {
    // Whole: the misses. Fraction: when, in units of MEMORY_UNIT_MS.
    const remembered = win.localStorage.headcount;
    if (Date.now() / MEMORY_UNIT_MS - (remembered % 1) < MEMORY) misses = remembered | 0;
  } catch {
    // This page may not use the storage.
  }

  /** A service worker that copies responses keeps an event stream open after its page has gone. */
  function mayOutlive(): boolean {
    try {
      return !!navigator.serviceWorker.controller;
    } catch {
      // There is none in an insecure context, and Chromium forbids to look at it in a sandboxed frame.
      return false;
    }
  }

  function prefersSocket(): boolean {
    return serverStrategy !== 'sse' || mayOutlive();
  }

  /** Opens a stream of the kind that `socket` says. Throws where the browser lacks the API or the page has no address. */
  function start(): Stream {
    const query = events.query();
    const cutMs = limit.cutMs();
    if (handle) query.set('replaces', handle);
    if (cutMs) query.set('cutAfter', cutMs as never);
    // The server asks only where the socket does not tell that a page has gone, because a frozen page cannot answer.
    if (mayOutlive()) query.set('answers', '1');
    let delivered = false;
    const own: Stream = (socket ? openWebSocket : openEventStream)(
      site,
      query,
      {
        received(message) {
          if (message?.type === 'connected') {
            // It comes once; what repeats it is no message.
            if (delivered) message = undefined;
            delivered = true;
            if (own === successor) {
              stream?.close();
              stream = own;
              successor = undefined;
            }
          }
          // What an old stream still delivers is ignored.
          if (own === stream) received(message);
        },
        ended(...why) {
          if (own === successor) giveUp();
          else if (own === stream) {
            // The server ends what was replaced, or the limit was met: the successor decides.
            if (successor) stream = undefined;
            else ended(...why);
          }
        },
        refused: events.refused,
      },
      handle && attempt > 1,
    );
    return own;
  }

  function renew(): void {
    plan(RENEWAL_TIMEOUT_MS, giveUp);
    successor = start();
  }

  /** The old stream stays to its end. */
  function giveUp(): void {
    clearTimeout(timer);
    stopSuccessor();
    if (!stream) ended('', SILENT);
  }

  function stopSuccessor(): void {
    successor?.close();
    successor = undefined;
  }

  function open(): void {
    const replaced = stream || successor;
    drop();
    // No user sees a page that is being prerendered, and perhaps none ever will.
    if (away || document.prerendering) return;

    socket = isAuto
      ? failed
        ? !socket
        : prefersSocket() !== misses >= MISSES
      : updateStrategy === 'ws' && !site.headers;
    openedAt = 0;
    hasOpened = false;
    heardAt = Date.now();
    silenceMs = patience(OPEN_TIMEOUT_MS);
    watch();
    try {
      stream = start();
      // Nothing must be sent on the new stream before it has said `connected`.
      if (replaced) events.ended('reconnecting', null);
    } catch (error) {
      const text = '' + error;
      ended((/^SecurityE/.test(text) && mixedContent(site)) || text, FORBIDDEN);
    }
  }

  /** How long to wait for a sign of a stream that has not delivered: longer each time, because a slow way is one, too. */
  function patience(ms: number): number {
    return Date.now() - leftAt < FEINT_MS ? FEINT_PATIENCE_MS : Math.min(LONGEST_PATIENCE_MS, ms * 2 ** attempt);
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
      else if (isSilent(1)) ended('', SILENT);
      else watch();
    }, dueAt - Date.now());
  }

  function received(message: ServerMessage | undefined): void {
    heardAt = Date.now();
    if (message?.type === 'connected') {
      openedAt = heardAt;
      silenceMs = boundedMs(message.keepaliveMs)! * SILENCE;
      serverStrategy = message.updateStrategy;
      learn();
      handle = message.connectionId as string;
      watch();
      plan(limit.renewMs(), renew);
    } else if (!openedAt) {
      hasOpened = true;
      silenceMs = patience(DELIVERY_TIMEOUT_MS);
      return watch();
    }
    if (!message) return;
    if (message.type === 'drain') {
      attempt = 0;
      drained = true;
      stopSuccessor();
      const delayMs = afterDrainMs(message.reconnectMs, backoff);
      notBefore = heardAt + delayMs;
      plan(delayMs);
    }
    if (!INTERNAL.includes(message.type)) events.message(message);
  }

  /** The kind of the stream has delivered. */
  function learn(): void {
    const before = misses;
    misses = socket === prefersSocket() ? 0 : misses + +(failed > 1);
    failed = 0;
    if (!isAuto || misses === before) return;
    try {
      win.localStorage.headcount = misses + Date.now() / MEMORY_UNIT_MS;
    } catch {
      // The next page finds out for itself.
    }
  }

  function ended(reason: string, code = ABNORMAL, namedMs = 0): void {
    const now = Date.now();
    const openMs = openedAt && now - openedAt;
    const isFeint =
      now - leftAt < FEINT_MS && (feintsUntil = Math.max(feintsUntil, now - MINUTE_MS) + MINUTE_MS / FEINTS) <= now;
    limit.ended(now, code && isCut(code) && !drained && !isFeint ? openMs : 0);
    // While the device is offline, or when the server itself says no, a failure says nothing about the kind.
    const hasFailed = isAuto && !openedAt && navigator.onLine && isCut(code) && !isFeint;
    // The other kind is tried at once: it delivers if the server is up, and after a restart both fail.
    const isFirst = hasFailed && !failed && !namedMs;
    failed = +hasFailed + +(hasFailed && (isFirst || hasOpened));
    if (code === DENIED) {
      close();
      return events.ended('closed', reason || 'The connection was denied.');
    }
    stopStream();
    // `drain` has planned the next stream, and its end is no error.
    const error = drained
      ? null
      : reason || (openedAt ? 'The connection was lost.' : `The connection to ${site.url('')} failed.`);
    if (!drained) {
      let delayMs: number;
      // With `auto`, what refuses WebSockets only must not keep event streams waiting.
      const refused = isRefusal(code) && !handle && !(socket && isAuto);
      [delayMs, attempt] = afterEnd(isFeint ? 0 : attempt, openMs, code, namedMs, refused, backoff);
      // What a fault or an overload asks for holds like a time that the server named.
      notBefore = Date.now() + (isCut(code) ? namedMs : delayMs);
      plan(isFirst ? OTHER_WAY_MS : delayMs);
    }
    events.ended('reconnecting', error);
  }

  function plan(delayMs: number, then = open): void {
    clearTimeout(timer);
    if (delayMs) timer = setTimeout(then, delayMs);
  }

  function stopStream(): void {
    clearTimeout(watchdog);
    stopSuccessor();
    stream?.close();
    stream = undefined;
  }

  function drop(): void {
    clearTimeout(timer);
    drained = false;
    stopStream();
  }

  /** Sends what the page must not lose when it is left. */
  function beacon(path: string, message?: ClientMessage): void {
    navigator.sendBeacon?.(site.url(path), JSON.stringify({ connectionId: handle, ...message }));
  }

  /** Says goodbye in both ways: one may be blocked, and a stream that is not open yet has only the beacon. */
  function leave(): void {
    if (handle) beacon('/bye');
    stream?.close(1000);
    drop();
  }

  function onPageEvent({ type }: Event): void {
    if (type === 'beforeunload') {
      leftAt = Date.now();
      if (!stream || openedAt) return;
      heardAt = leftAt;
      silenceMs = FEINT_PATIENCE_MS;
      return watch();
    }
    if (type === 'pagehide') {
      away = true;
      leave();
      return events.ended('reconnecting', null);
    }
    if (type === 'pageshow') away = false;
    // A network that was away may have cut the stream without an event.
    const isGood = (stream || successor) && !(openedAt && isSilent(type === 'online' ? 0 : 0.5));
    if (isGood || (document.hidden && type === 'visibilitychange')) return;
    const waitMs = Math.max(0, notBefore - Date.now());
    if (!waitMs) attempt = 0;
    // A network that returns wakes all the pages behind it in the same moment.
    if (waitMs || type === 'online') plan(waitMs + backoffMs(0, backoff));
    else open();
  }

  function listen(method: 'addEventListener' | 'removeEventListener'): void {
    for (const type of PAGE_EVENTS) for (const target of [win, document]) target[method](type, onPageEvent);
  }

  function close(): void {
    listen('removeEventListener');
    away = false;
    leave();
  }

  return {
    open() {
      listen('addEventListener');
      attempt = 0;
      open();
    },
    close,
    send(message) {
      // The page reloads at once. Like a goodbye, it goes both ways.
      if ((message as Partial<ReleaseReply>).reply === 'accepted') beacon('/release-reply', message);
      stream?.send(message, handle);
    },
  };
}
