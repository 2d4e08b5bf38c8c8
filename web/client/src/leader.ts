/**
 * The leader of the tabs that share a stream: it holds the stream, reports all tabs on it, and relays what comes to them.
 * Which tab leads is decided in shared.ts. Tests: test/shared.test.ts.
 */
import type { Connection, ConnectionEvents } from './connection.js';
import type { ClientMessage, ServerMessage, Tab } from './messages.js';

/** From a tab to the leader: the tab is there or changed, leaves, subscribes or does not, answers, wants a new stream. */
export type ToLeader =
  | { type: 'tab'; tab: Tab }
  | { type: 'bye'; key: string }
  | { type: 'say'; key: string; message: ClientMessage }
  | { type: 'answer'; message: ClientMessage }
  | { type: 'reopen' };

/** From the leader to one tab (`key`) or to all: the answer to `tab`, what came on the stream, and which tab left with it. */
export type FromLeader =
  | { type: 'ack'; key: string; full: boolean; connected: ServerMessage | undefined }
  | { type: 'got'; message: ServerMessage }
  | { type: 'ended'; status: 'reconnecting' | 'closed'; error: string | null; left?: string | undefined }
  | { type: 'refused'; message: ClientMessage; status: number; error: string | null };

export interface Leader {
  receive(note: ToLeader): void;
  /** Ends the stream. `left`: the tab that takes its leave with it; the server keeps the others counted for a moment. */
  stop(left: string | undefined): void;
}

/** Asks for a Web Lock. */
export type LockRequest = (name: string, options: LockOptions, callback: () => unknown) => Promise<unknown>;

export interface LeaderOptions {
  /** Makes the stream that the tabs share. */
  createStream(events: ConnectionEvents): Connection;
  /** The `connectionId` of the last stream, if there was one: the new stream replaces it. */
  lastConnectionId(): unknown;
  /** The tab that led before and has left: the first report removes it. */
  left: string | undefined;
  lock: LockRequest;
  /** Name of the lock that a tab holds for as long as it lives. */
  lockOf(key: string): string;
  /** Delivers to all tabs, the leader's own included. */
  relay(note: FromLeader): void;
}

/** The server's limit for one stream. */
const MAX_TABS = 64;
/** The server's limit of their versions. */
const MAX_TAB_VERSIONS = 8;
/** Characters of one report after which it takes no more tabs. A message may have 4 KiB, and one tab about half of that. */
const REPORT_LENGTH = 2000;
/** Keys that one report removes at most. */
const MAX_REMOVED = 20;

export function createLeader({ createStream, lastConnectionId, left, lock, lockOf, relay }: LeaderOptions): Leader {
  const stopped = new AbortController();
  /** All tabs by key, each as JSON, which is easy to compare. */
  const tabs = new Map<string, string>();
  /** The tabs as the server knows them: those that were reported on the present stream, and at first the one that left. */
  let reported = new Map(left ? [[left, '']] : []);
  /** A report is under way. */
  let reporting = false;
  /** The keys that the server has answered with a public id. */
  let identified: object = {};
  /** The subscriptions of the tabs that show figures. */
  const subscriptions = new Map<string, ClientMessage>();
  let subscribing: ReturnType<typeof setTimeout> | undefined;
  let connected: ServerMessage | undefined;

  const stream = createStream({
    query() {
      const query = new URLSearchParams({ shared: '1' });
      const replaced = lastConnectionId();
      if (replaced) query.set('replaces', replaced as string);
      return query;
    },
    message(message) {
      const { type } = message;
      if (type === 'connected') {
        // A stream that takes over from one that is still open: `ended` has not been called.
        if (connected) forget();
        connected = message;
        report();
      }
      // The leader answers for all tabs, and any POST is an answer.
      if (type === 'are-you-there') return stream.send({ type: 'tabs', set: [], remove: [] });
      // Tabs that come later get the current version from it.
      if (type === 'version' && connected)
        connected = { ...connected, currentVersion: message.version, release: message.release };
      if (type === 'tabs') {
        reporting = false;
        Object.assign(identified, message.ids);
      }
      relay({ type: 'got', message });
      if (type === 'tabs') {
        report();
        subscribe();
      }
    },
    ended(status, error) {
      connected = undefined;
      forget();
      relay({ type: 'ended', status, error });
    },
    refused(message, status, error) {
      if ('set' in message && status) reporting = false;
      relay({ type: 'refused', message, status, error });
    },
  });

  /** Nothing is known to the server any more that was said on the stream before. */
  function forget(): void {
    reporting = false;
    reported = new Map();
    identified = {};
    subscriptions.clear();
  }

  /** One report at a time is under way; what changes meanwhile is in the next. */
  function report(): void {
    if (!connected || reporting) return;
    const set: Tab[] = [];
    let length = 0;
    const remove = [...reported.keys()].filter((key) => !tabs.has(key)).slice(0, MAX_REMOVED);
    for (const [key, text] of tabs) {
      if (reported.get(key) === text || length > REPORT_LENGTH) continue;
      set.push(JSON.parse(text));
      reported.set(key, text);
      length += text.length;
    }
    for (const key of remove) reported.delete(key);
    if (!set.length && !remove.length) return;
    reporting = true;
    stream.send({ type: 'tabs', set, remove });
  }

  /** Subscribes once for all tabs that asked in the same moment, and only when the server knows them. */
  function subscribe(): void {
    clearTimeout(subscribing);
    subscribing = setTimeout(() => {
      const ready = [...subscriptions].filter(([key]) => key in identified).at(-1);
      if (connected && ready) stream.send(ready[1]);
    });
  }

  function unsubscribe(key: string): void {
    if (subscriptions.delete(key) && !subscriptions.size && connected) stream.send({ type: 'unsubscribe-stats' });
  }

  function add(tab: Tab): void {
    const { key } = tab;
    const isNew = !tabs.has(key);
    const versions = new Set([JSON.stringify(tab), ...tabs.values()].map((text) => JSON.parse(text).version));
    const full = isNew && (tabs.size >= MAX_TABS || versions.size > MAX_TAB_VERSIONS);
    if (!full) {
      // A tab that crashes says no `bye`, but its lock is free then.
      if (isNew) lock(lockOf(key), { signal: stopped.signal }, () => remove(key)).catch(() => {});
      tabs.set(key, JSON.stringify(tab));
    }
    relay({ type: 'ack', key, full, connected });
    report();
  }

  function remove(key: string): void {
    if (!tabs.delete(key)) return;
    unsubscribe(key);
    report();
  }

  stream.open();
  return {
    receive(note) {
      switch (note.type) {
        case 'reopen':
          return stream.open();
        case 'bye':
          return remove(note.key);
        case 'tab':
          return add(note.tab);
        case 'answer':
          if (connected) stream.send(note.message);
          return;
        case 'say':
          if (note.message.type === 'unsubscribe-stats') return unsubscribe(note.key);
          subscriptions.set(note.key, note.message);
          return subscribe();
      }
    },
    stop(left) {
      clearTimeout(subscribing);
      stopped.abort();
      if (connected && left) stream.send({ type: 'tabs', set: [], remove: [left] });
      stream.close();
    },
  };
}
