/**
 * The client of a page: one stream and one immutable snapshot, shared by all subscribers.
 *
 * `subscribe` and `getSnapshot` are what a framework's store needs. Importing this module and creating a client have no
 * effect, and without a `window` nothing ever happens, so a client may be created during server-side rendering.
 */
import { type ConnectionEvents, createConnection, type Status } from './connection.js';
import { notify } from './listeners.js';
import { type ClientMessage, type ReleaseReply, routeLabel, type ServerMessage, versionLabel } from './messages.js';
import { createRouteTracker } from './route.js';
import { createSite, type HeadcountOptions, resolve } from './settings.js';
import { applyDelta, type Figures, noFigures, readRelease, readStats } from './stats.js';

export type { Backoff } from './backoff.js';
export type { Connection, ConnectionEvents, Status, StreamFactory } from './connection.js';
export type { ReleaseReply, ServerMessage, UpdateStrategy } from './messages.js';
export type { HeadcountOptions } from './settings.js';
export type { ConnectionInfo, ConnectionStats, Figures, Nodes, Release } from './stats.js';

/** Never changed: every update is another object. */
export interface Snapshot extends Readonly<Figures> {
  /** null while pending, false if denied, true if authorised; the figures are empty unless it is true. */
  readonly authorized: boolean | null;
  readonly status: Status;
  /** What is wrong, in words; null when nothing is. */
  readonly error: string | null;
  /** True while the figures are out of date: the stream was lost, or a delta is missing. */
  readonly isStale: boolean;
  /** Version of the server that answered last. */
  readonly serverVersion: string | undefined;
  readonly currentVersion: string | undefined;
}

export interface Headcount {
  /** Opens the stream and keeps it open, so that this page is counted. */
  connect(): void;
  /** Ends everything until `connect`, `reconnect` or a new first subscriber. */
  close(): void;
  /** Opens a new stream at once: after a log-in or log-out, because rights belong to the stream. */
  reconnect(): void;
  /**
   * Receives statistics while there is a subscriber. The listener gets the snapshot at once and after each change, like
   * a Svelte store's. The last one to leave ends the subscription, and the stream too unless `connect` was called.
   */
  subscribe(listener: (snapshot: Snapshot) => void): () => void;
  /** The same object until something changes. */
  getSnapshot(): Snapshot;
  /** The initial snapshot, for server-side rendering and for hydration. */
  getServerSnapshot(): Snapshot;
  /** Reports the route that the page shows, with or without route tracking. Query and fragment are dropped; `#/a` is `/a`. */
  setRoute(route: string): void;
  /** Application messages, `version`, `drain`, and every other message that this client does not use itself. */
  onMessage(listener: (message: ServerMessage) => void): () => void;
  /** Says what the page does about a release, as `headcount-client/release` does. Without an open stream it says nothing. */
  reply(reply: ReleaseReply): void;
}

// The versions and the release are left out, because they are undefined at first and the core must stay small.
const INITIAL = Object.freeze({
  ...noFigures(),
  authorized: null,
  status: 'idle',
  error: null,
  isStale: false,
} as Snapshot);

/** The server closes a stream that sends more than twice as many messages. What is too much is sent later, the newest route. */
const ROUTES_PER_SECOND = 10;

let latest: Headcount | undefined;

/** The client created last: the default of the adapters. */
export function latestHeadcount(): Headcount | undefined {
  return latest;
}

export function createHeadcount(options: HeadcountOptions = {}): Headcount {
  const settings = resolve(options);
  const win = options.window ?? (globalThis.window as typeof window | undefined);
  const version = versionLabel(settings.version ?? '');
  const listeners = new Set<(snapshot: Snapshot) => void>();
  const messageListeners = new Set<(message: ServerMessage) => void>();
  let snapshot = INITIAL;
  let counted = false;
  let route: string | undefined;
  /** The route in the query of the newest stream, which takes over only when it has delivered `connected`. */
  let queriedRoute: string | undefined;
  // What was sent on the present stream, and whether a delta can be applied to its figures.
  let sentRoute: string | undefined;
  let sentWatching = false;
  let hasStats = false;
  /** Routes that were sent in the last second. */
  let recentRoutes = 0;

  const { routeTracking } = settings;
  const readRoute =
    settings.route ?? (routeTracking && (() => win!.location[routeTracking === 'hash' ? routeTracking : 'pathname']));
  const tracker = win && readRoute && !settings.viewer ? createRouteTracker(win, readRoute, setRoute) : undefined;
  const events: ConnectionEvents = {
    query() {
      tracker?.check();
      queriedRoute = route;
      const query = new URLSearchParams();
      if (route) query.set('route', route);
      if (version) query.set('version', version);
      if (settings.viewer) query.set('viewer', '1');
      if (snapshot.status === 'reconnecting') query.set('reconnect', '1');
      // A server that does not know that this page was asked to come to a release would withhold it.
      if (snapshot.release?.number) query.set('release', `${snapshot.release.number}`);
      return query;
    },
    message: receive,
    ended(status, error) {
      if (status === 'closed') {
        tracker?.track(false);
        return set({ ...noFigures(), authorized: listeners.size ? false : null, isStale: false, status, error });
      }
      set({ status, error, isStale: !!snapshot.authorized });
    },
    refused({ type }, status, error) {
      set(
        status > 200 && type === 'subscribe-stats'
          ? { ...noFigures(), authorized: false, isStale: false, error }
          : { error },
      );
    },
  };
  const { stream = (open, ...rest) => open(...rest) } = settings;
  const connection =
    win && stream(createConnection, win, createSite(win, settings), options.updateStrategy ?? 'auto', events);

  function set(changes: Partial<Snapshot>): void {
    const keys = Object.keys(changes) as (keyof Snapshot)[];
    if (keys.every((key) => snapshot[key] === changes[key])) return;
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
    tracker?.track(true);
    connection.open();
  }

  function stop(status: 'idle' | 'closed'): void {
    tracker?.track(false);
    connection?.close();
    set({ status, error: null, isStale: !!snapshot.authorized });
  }

  /** Updates the server first, then the listeners, because a listener may close or reconnect. */
  function sync(): void {
    if (snapshot.status !== 'open') return;
    if (route !== undefined && route !== sentRoute && recentRoutes < ROUTES_PER_SECOND) {
      recentRoutes++;
      setTimeout(() => {
        recentRoutes--;
        sync();
      }, 1000);
      sentRoute = route;
      connection?.send({ type: 'route-update', route });
    }
    const watching = listeners.size > 0;
    if (watching === sentWatching) return;
    sentWatching = watching;
    hasStats = false;
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
        sentRoute = queriedRoute;
        sentWatching = hasStats = false;
        set({
          status: 'open',
          error: null,
          serverVersion: message.version as string,
          currentVersion: message.currentVersion as string | undefined,
          release: readRelease(message.release),
        });
        return sync();
      }
      // Any POST is an answer, and every server knows this one.
      case 'are-you-there':
        return connection?.send({ type: 'route-update', route: route ?? '/' });
      case 'stats': {
        // It may have been on its way when the last subscriber left.
        const figures = listeners.size ? readStats(message) : undefined;
        if (!figures) return;
        hasStats = true;
        return set({ ...figures, authorized: true, isStale: false });
      }
      case 'stats-delta': {
        if (!hasStats) return;
        const figures = applyDelta(snapshot, message);
        if (figures) return set(figures);
        hasStats = false;
        askForStats();
        return set({ isStale: true });
      }
      case 'stats-unauthorized':
        if (!listeners.size) return;
        hasStats = false;
        // The server is about to close a viewer's stream. SSE could not say why, and would come back in vain.
        if (settings.viewer) connection?.close();
        return set({ ...noFigures(), authorized: false, isStale: false, ...(settings.viewer && { status: 'closed' }) });
      default:
        if (message.type === 'version')
          set({ currentVersion: message.version as string, release: readRelease(message.release) });
        notify(messageListeners, message);
        // An application may have a field of that name; the ids are the server's.
        if (/^[\da-f]{16}$/.test(message.acknowledge as string))
          answer({ type: 'acknowledge', id: message.acknowledge });
    }
  }

  /** Listeners that have just been called may have closed the stream. */
  function answer(message: ClientMessage): void {
    if (snapshot.status === 'open') connection?.send(message);
  }

  function setRoute(path: string): void {
    // What a hash router calls `#/a` or `#!/a` is `/a`.
    route = routeLabel(path.replace(/^#!?(?=\/)|[?#].*/gs, '')) || '/';
    sync();
  }

  /** Runs after the present task, because a component that replaces the last subscriber subscribes in that task. */
  function leaveIfUnused(): void {
    if (listeners.size) return;
    // A stream that closes needs no unsubscribe.
    if (!counted && isRunning()) stop('idle');
    sync();
    set({ ...noFigures(), authorized: null, isStale: false });
  }

  // A script that runs again in the same page, as Turbo and htmx let it, gets the client that it made before.
  return (latest = (Object(win) as Record<string, Headcount>)[
    JSON.stringify({ ...settings, window: null }) + settings.headers
  ] ??=
    {
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
        // Two subscribers may pass the same function and leave at different times.
        const entry = (snapshot: Snapshot) => listener(snapshot);
        notify([entry], snapshot);
        if (!win) return () => {};
        listeners.add(entry);
        if (listeners.size === 1 && !isRunning()) start('connecting');
        sync();
        return () => {
          if (listeners.delete(entry)) queueMicrotask(leaveIfUnused);
        };
      },
      getSnapshot: () => snapshot,
      getServerSnapshot: () => INITIAL,
      setRoute,
      reply: answer,
      onMessage(listener) {
        const entry = (message: ServerMessage) => listener(message);
        messageListeners.add(entry);
        return () => void messageListeners.delete(entry);
      },
    });
}
