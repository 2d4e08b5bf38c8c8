/**
 * The client of a page: one stream however many ask, and one immutable snapshot that everybody reads.
 *
 * It is made for adapters: `subscribe` and `getSnapshot` are what a framework's store needs. Importing it and creating
 * one does nothing, and without a `window` nothing ever happens, so it may be created while a server renders.
 */
import { type ConnectionEvents, createConnection, type Status } from './connection.js';
import { label, ROUTE_LENGTH, type ServerMessage, VERSION_LENGTH } from './messages.js';
import { createRouteTracker } from './route.js';
import { createSite, type HeadcountOptions, resolve } from './settings.js';
import { applyDelta, type Figures, noFigures, readStats } from './stats.js';

export type { Backoff } from './backoff.js';
export type { Connection, ConnectionEvents, Status, StreamFactory } from './connection.js';
export type { ServerMessage, UpdateStrategy } from './messages.js';
export type { HeadcountOptions } from './settings.js';
export type { ConnectionInfo, ConnectionStats, Figures } from './stats.js';

/** Never changed: every update is another object. */
export interface Snapshot extends Readonly<Figures> {
  /** null while pending, false if denied, true if authorised; the figures are empty unless it is true. */
  readonly authorized: boolean | null;
  readonly status: Status;
  /** A sentence, while something is wrong. */
  readonly error: string | null;
  /** True while the figures are old: those of a stream that was lost, or of before a gap. */
  readonly isStale: boolean;
  /** Version of the server that the stream was last opened to. */
  readonly serverVersion: string | undefined;
  /** The version that was declared current, else the server's own; undefined until a stream has opened. */
  readonly currentVersion: string | undefined;
}

export interface Headcount {
  /** Opens the stream and keeps it open, so that this page is counted. */
  connect(): void;
  /** Ends everything until `connect`, `reconnect` or a new first subscriber. */
  close(): void;
  /** Opens a new stream at once: after a log-in or log-out, which the present stream knows nothing of. */
  reconnect(): void;
  /**
   * Asks for statistics for as long as anybody is subscribed. The listener gets the snapshot at once and after each
   * change, as Svelte's stores have it. The last one that leaves ends the subscription, and the stream too unless `connect` was called.
   */
  subscribe(listener: (snapshot: Snapshot) => void): () => void;
  /** The same object until something changes. */
  getSnapshot(): Snapshot;
  /** What every page begins with, for rendering on a server and for the render that takes over from it. */
  getServerSnapshot(): Snapshot;
  /** Says which route the page shows, with or without route tracking. Query and fragment are dropped. */
  setRoute(route: string): void;
  /** Application messages, `version`, `drain`, and whatever else is no business of this client. */
  onMessage(listener: (message: ServerMessage) => void): () => void;
}

// The versions are undefined at first, which need not be written: the core must stay small.
const INITIAL = Object.freeze({
  ...noFigures(),
  authorized: null,
  status: 'idle',
  error: null,
  isStale: false,
} as Snapshot);

let latest: Headcount | undefined;

/** The one created last, for adapters that were given none. */
export function latestHeadcount(): Headcount | undefined {
  return latest;
}

export function createHeadcount(options: HeadcountOptions = {}): Headcount {
  const settings = resolve(options);
  const win = settings.window ?? (globalThis.window as typeof window | undefined);
  const version = label(settings.version ?? '', VERSION_LENGTH);
  const listeners = new Set<(snapshot: Snapshot) => void>();
  const messageListeners = new Set<(message: ServerMessage) => void>();
  let snapshot = INITIAL;
  let counted = false;
  let route: string | undefined;
  // What the server has been told on the present stream, and whether its figures can be built upon.
  let toldRoute: string | undefined;
  let toldWatching = false;
  let whole = false;

  const tracker = win && settings.routeTracking && !settings.viewer ? createRouteTracker(win, setRoute) : undefined;
  const events: ConnectionEvents = {
    query() {
      tracker?.check();
      toldRoute = route;
      const query = new URLSearchParams();
      if (route) query.set('route', route);
      if (version) query.set('version', version);
      if (settings.viewer) query.set('viewer', '1');
      if (snapshot.status === 'reconnecting') query.set('reconnect', '1');
      return query;
    },
    message: receive,
    ended(status, error) {
      if (status === 'closed') {
        tracker?.stop();
        return set({ ...noFigures(), authorized: listeners.size ? false : null, status, error, isStale: false });
      }
      set({ status, error, isStale: !!snapshot.authorized });
    },
    refused({ type }, status) {
      const error = `The server refused ${type} (${status})`;
      set(type === 'subscribe-stats' ? { ...noFigures(), authorized: false, error, isStale: false } : { error });
    },
  };
  const { stream = (open, ...rest) => open(...rest) } = settings;
  const connection =
    win && stream(createConnection, win, createSite(win, settings), settings.updateStrategy ?? 'auto', events);

  function set(changes: Partial<Snapshot>): void {
    const keys = Object.keys(changes) as (keyof Snapshot)[];
    if (keys.every((key) => Object.is(snapshot[key], changes[key]))) return;
    snapshot = { ...snapshot, ...changes };
    notify(listeners, snapshot);
  }

  function isRunning(): boolean {
    return snapshot.status !== 'idle' && snapshot.status !== 'closed';
  }

  function start(status: 'connecting' | 'reconnecting'): void {
    if (!connection) return;
    set({ status, error: null, isStale: !!snapshot.authorized });
    // A listener may just have closed it.
    if (!isRunning()) return;
    tracker?.start();
    connection.open();
  }

  function stop(status: 'idle' | 'closed'): void {
    tracker?.stop();
    connection?.close();
    set({ status, error: null, isStale: !!snapshot.authorized });
  }

  /** Brings the server up to date, then the listeners: they may close or reconnect on the spot. */
  function tell(): void {
    if (snapshot.status !== 'open') return;
    if (route !== undefined && route !== toldRoute) {
      toldRoute = route;
      connection?.send({ type: 'route-update', route });
    }
    const watching = listeners.size > 0;
    if (watching === toldWatching) return;
    toldWatching = watching;
    whole = false;
    if (!watching) return connection?.send({ type: 'unsubscribe-stats' });
    askForStats();
    set({ authorized: snapshot.authorized || null });
  }

  function askForStats(): void {
    connection?.send({ type: 'subscribe-stats', deltas: settings.deltas ?? true });
  }

  function receive(message: ServerMessage): void {
    switch (message.type) {
      case 'connected': {
        const { version: serverVersion, currentVersion = serverVersion } = message as Partial<Record<string, string>>;
        toldWatching = whole = false;
        set({ status: 'open', error: null, serverVersion, currentVersion });
        return tell();
      }
      case 'stats': {
        // It may have been on its way when the last subscriber left.
        const figures = listeners.size ? readStats(message) : undefined;
        if (!figures) return;
        whole = true;
        return set({ ...figures, authorized: true, isStale: false, error: null });
      }
      case 'stats-delta': {
        if (!whole) return;
        const figures = applyDelta(snapshot, message);
        if (figures) return set(figures);
        whole = false;
        askForStats();
        return set({ isStale: true });
      }
      case 'stats-unauthorized':
        if (!listeners.size) return;
        whole = false;
        // The server is about to close a viewer's stream. SSE could not say why, and would come back in vain.
        if (settings.viewer) connection?.close();
        set({ ...noFigures(), authorized: false, isStale: false, ...(settings.viewer && { status: 'closed' }) });
        return;
      default:
        if (message.type === 'version') set({ currentVersion: message.version as string });
        notify(messageListeners, message);
    }
  }

  function setRoute(path: string): void {
    route = label(path.replace(/[?#].*/s, ''), ROUTE_LENGTH) || '/';
    tell();
  }

  /** Runs a little after the last one left: the component that takes its place subscribes right away. */
  function settle(): void {
    if (listeners.size) return;
    // Nothing need be said on a stream that closes.
    if (!counted && isRunning()) stop('idle');
    tell();
    set({ ...noFigures(), authorized: null, isStale: false });
  }

  return (latest = {
    connect() {
      counted = true;
      if (!isRunning()) start('connecting');
    },
    close() {
      counted = false;
      stop('closed');
    },
    reconnect() {
      if (counted || listeners.size) start('reconnecting');
    },
    subscribe(listener) {
      // The same function may be given twice, by two who leave at different times.
      const entry = (snapshot: Snapshot) => listener(snapshot);
      notify([entry], snapshot);
      if (!win) return () => {};
      listeners.add(entry);
      if (listeners.size === 1 && !isRunning()) start('connecting');
      tell();
      return () => {
        if (listeners.delete(entry)) queueMicrotask(settle);
      };
    },
    getSnapshot: () => snapshot,
    getServerSnapshot: () => INITIAL,
    setRoute,
    onMessage(listener) {
      const entry = (message: ServerMessage) => listener(message);
      messageListeners.add(entry);
      return () => void messageListeners.delete(entry);
    },
  });
}

/** A listener that throws is reported like any uncaught error, and keeps neither the others nor the stream waiting. */
function notify<T>(listeners: Iterable<(value: T) => void>, value: T): void {
  for (const listener of [...listeners]) {
    try {
      listener(value);
    } catch (error) {
      setTimeout(() => {
        throw error;
      });
    }
  }
}
