/**
 * One stream for all tabs of a browser: `createHeadcount({ stream: shared })`.
 *
 * The tab that holds a Web Lock is the leader: it has the stream, reports all tabs on it, and relays what comes over a
 * BroadcastChannel. The others wait for the lock, and one of them has it as soon as the leader is gone. Each tab also
 * holds a lock of its own, and the leader waits for that, so that a tab that crashes is missed like one that closes.
 *
 * Every tab has its state from the relay as if it had a stream: `connected` makes it subscribe, `ended` makes its figures
 * stale. Where locks or channels are missing, for viewers, and with `headers`, which may be one tab's own, each tab has a
 * stream of its own.
 */
import type { Connection, StreamFactory } from './connection.js';
import type { ClientMessage, ServerMessage, Tab } from './messages.js';

/** From one tab to the leader, or from the leader to one tab (`key`) or to all. */
type Note =
  | { type: 'tab'; tab: Tab }
  | { type: 'bye'; key: string }
  | { type: 'say'; key: string; message: ClientMessage }
  | { type: 'reopen' }
  | { type: 'lead' }
  | { type: 'ack'; key: string; full: boolean; connected: ServerMessage | undefined }
  | { type: 'got'; message: ServerMessage }
  | { type: 'ended'; status: 'reconnecting' | 'closed'; error: string | null }
  | { type: 'refused'; message: ClientMessage; status: number };

/** What the server takes. */
const MAX_TABS = 64;
/** Of one report, of the 4 KiB that the server takes: one tab more may have half of it. */
const REPORT_LENGTH = 2000;
/** A leader that says nothing for this long to somebody who speaks to it is frozen, and the lock is taken from it. */
const PATIENCE_MS = 3000;

export const shared: StreamFactory = (open, win, site, strategy, events) => {
  const { document, navigator, BroadcastChannel: Channel } = win as Window & typeof globalThis;
  const { locks } = navigator;
  const alone = open(win, site, strategy, events);
  if (!locks || !Channel || site.headers || events.query().has('viewer')) return alone;

  const key = [...win.crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');
  let wanted = false;
  /** Ends this tab's part in all of it. */
  let leave: (() => void) | undefined;
  let send: (message: ClientMessage) => void = () => {};
  let reopen = () => {};
  /** Of the stream of the last leader, for the next to name. */
  let handle: unknown;
  let crowded = false;

  function join(): void {
    const name = 'headcount 1 ' + site.url('');
    const channel = new Channel(name);
    const ended = new AbortController();
    let lead: ReturnType<typeof leading> | undefined;
    let id: unknown;
    let heard = false;
    let patience: ReturnType<typeof setTimeout>;

    /** What comes from a leader, be it this tab. */
    function take(note: Note): void {
      heard = true;
      if (note.type === 'ack' && note.key === key) {
        if (note.full) {
          leave?.();
          crowded = true;
          return alone.open();
        }
        if (note.connected) got(note.connected);
      }
      if (note.type === 'got') got(note.message);
      if (note.type === 'refused') events.refused(note.message, note.status);
      if (note.type === 'ended') {
        if (note.status === 'closed') close();
        events.ended(note.status, note.error);
      }
    }

    let openedWith: unknown;
    function got(message: ServerMessage): void {
      if (message.type === 'connected') {
        if (openedWith === message.connectionId) return;
        openedWith = handle = message.connectionId;
      }
      if (message.type === 'tabs') id = Object(message.ids)[key] ?? id;
      else if (message.type !== 'to') events.message(message.type === 'stats' ? { ...message, yourId: id } : message);
      else if ([message.tabs].flat().includes(key)) events.message(message.message as ServerMessage);
    }

    const tell = (note: Note) => (lead ? lead.take(note) : channel.postMessage(note));
    function introduce(): void {
      const query = events.query();
      const text = (field: string) => query.get(field) ?? undefined;
      tell({ type: 'tab', tab: { key, version: text('version'), route: text('route'), hidden: document.hidden } });
      if (lead) return;
      heard = false;
      clearTimeout(patience);
      patience = setTimeout(() => heard || document.hidden || elect(true), PATIENCE_MS);
    }

    let candidacy: AbortController | undefined;
    function elect(steal: boolean): void {
      candidacy?.abort();
      const { signal } = (candidacy = new AbortController());
      // A lock cannot be both stolen and given up waiting for.
      const held = locks.request(name, steal ? { steal } : { signal }, () => {
        if (ended.signal.aborted) return;
        lead = leading((note) => {
          channel.postMessage(note);
          take(note);
        });
        channel.postMessage({ type: 'lead' });
        introduce();
        return new Promise<void>((resolve) => ended.signal.addEventListener('abort', () => resolve()));
      });
      held.catch(() => {
        // Another tab took the lock, because this one was frozen; or this tab left while it was waiting.
        if (ended.signal.aborted || signal.aborted) return;
        leave?.();
        events.ended('reconnecting', null);
        join();
      });
    }

    channel.onmessage = ({ data }: MessageEvent<Note>) => {
      if (data.type === 'lead') return introduce();
      if (/^(tab|bye|say|reopen)$/.test(data.type)) return lead?.take(data);
      if (!lead) take(data);
    };
    const look = () => introduce();
    document.addEventListener('visibilitychange', look);
    document.addEventListener('resume', look);
    send = (message) => (message.type === 'route-update' ? introduce() : tell({ type: 'say', key, message }));
    reopen = () => tell({ type: 'reopen' });
    leave = () => {
      leave = undefined;
      send = reopen = () => {};
      document.removeEventListener('visibilitychange', look);
      document.removeEventListener('resume', look);
      clearTimeout(patience);
      if (!lead) tell({ type: 'bye', key });
      lead?.stop();
      ended.abort();
      candidacy?.abort();
      channel.close();
    };

    // Its own lock first: the leader must find it held.
    void locks.request(name + ' ' + key, () => {
      if (ended.signal.aborted) return;
      elect(false);
      introduce();
      return new Promise<void>((resolve) => ended.signal.addEventListener('abort', () => resolve()));
    });
    function leading(relay: (note: Note) => void) {
      const stopped = new AbortController();
      const tabs = new Map<string, string>();
      const watching = new Map<string, ClientMessage>();
      const known = new Set<unknown>();
      let told = new Map<string, string>();
      let connected: ServerMessage | undefined;
      let reporting = false;
      let asking: ReturnType<typeof setTimeout> | undefined;

      const stream: Connection = open(win, site, strategy, {
        query() {
          const query = new URLSearchParams({ shared: '1' });
          if (typeof handle === 'string') query.set('replaces', handle);
          return query;
        },
        message(message) {
          if (message.type === 'connected') {
            connected = message;
            report();
          }
          // Tabs that come later are told by it.
          if (message.type === 'version' && connected) connected = { ...connected, currentVersion: message.version };
          if (message.type === 'tabs') {
            reporting = false;
            for (const key of Object.keys(Object(message.ids))) known.add(key);
          }
          relay({ type: 'got', message });
          if (message.type === 'tabs') {
            report();
            ask();
          }
        },
        ended(status, error) {
          forget();
          relay({ type: 'ended', status, error });
        },
        refused(message, status) {
          if (message.type === 'tabs') reporting = false;
          relay({ type: 'refused', message, status });
        },
      });
      function forget(): void {
        connected = undefined;
        reporting = false;
        told = new Map();
        known.clear();
        watching.clear();
      }

      /** One report at a time is under way; what changes meanwhile is in the next. */
      function report(): void {
        if (!connected || reporting) return;
        const set: Tab[] = [];
        let length = 0;
        const remove = [...told.keys()].filter((key) => !tabs.has(key)).slice(0, 20);
        for (const [key, text] of tabs) {
          if (told.get(key) === text || length > REPORT_LENGTH) continue;
          set.push(JSON.parse(text));
          told.set(key, text);
          length += text.length;
        }
        for (const key of remove) told.delete(key);
        if (!set.length && !remove.length) return;
        reporting = true;
        stream.send({ type: 'tabs', set, remove });
      }

      /** Asks for figures once for all who asked in the same moment, and when their ids are known. */
      function ask(): void {
        clearTimeout(asking);
        asking = setTimeout(() => {
          const ready = [...watching].filter(([key]) => known.has(key));
          if (connected && ready.length) stream.send(ready.at(-1)![1]);
        });
      }

      function drop(key: string): void {
        if (!tabs.delete(key)) return;
        hush(key);
        report();
      }

      function hush(key: string): void {
        if (watching.delete(key) && !watching.size && connected) stream.send({ type: 'unsubscribe-stats' });
      }

      stream.open();
      return {
        take(note: Note): void {
          if (note.type === 'reopen') stream.open();
          if (note.type === 'bye') drop(note.key);
          if (note.type === 'tab') {
            const { key } = note.tab;
            const full = !tabs.has(key) && tabs.size >= MAX_TABS;
            if (!full) {
              if (!tabs.has(key)) {
                const lost = () => drop(key);
                locks.request(name + ' ' + key, { signal: stopped.signal }, lost).catch(() => {});
              }
              tabs.set(key, JSON.stringify(note.tab));
            }
            relay({ type: 'ack', key, full, connected });
            report();
          }
          if (note.type === 'say') {
            if (note.message.type === 'unsubscribe-stats') return hush(note.key);
            watching.set(note.key, note.message);
            ask();
          }
        },
        stop(): void {
          clearTimeout(asking);
          stopped.abort();
          stream.close();
          channel.postMessage({ type: 'ended', status: 'reconnecting', error: null } satisfies Note);
        },
      };
    }
  }

  function onPageEvent({ type }: Event): void {
    if (type === 'pagehide') {
      leave?.();
      events.ended('reconnecting', null);
    } else if (!leave && wanted && !crowded) join();
  }

  function close(): void {
    wanted = crowded = false;
    for (const type of ['pagehide', 'pageshow']) win.removeEventListener(type, onPageEvent);
    document.removeEventListener('prerenderingchange', onPageEvent);
    leave?.();
    alone.close();
  }

  return {
    open() {
      if (crowded) return alone.open();
      wanted = true;
      for (const type of ['pagehide', 'pageshow']) win.addEventListener(type, onPageEvent);
      document.addEventListener('prerenderingchange', onPageEvent);
      if (leave) reopen();
      else if (!(document as { prerendering?: boolean }).prerendering) join();
    },
    close,
    send: (message) => (crowded ? alone.send(message) : send(message)),
  };
};
