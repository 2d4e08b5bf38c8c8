/**
 * One stream for all tabs of a browser: `createHeadcount({ stream: shared })`.
 *
 * The tab that holds a Web Lock is the leader (leader.ts): it has the stream and relays over a BroadcastChannel. The other
 * tabs wait for the lock, and one of them gets it as soon as the leader is gone. Each tab also holds a lock of its own,
 * and the leader waits for that lock, so it notices a tab that crashes like one that closes.
 *
 * Every tab builds its state from the relay as if it had a stream: `connected` makes it subscribe, `ended` makes its
 * figures stale. A tab has a stream of its own where locks or channels are missing, for viewers, and with `headers`, which
 * may belong to that tab only.
 *
 * Tests: tests/e2e/test_shared.py, because only a browser has Web Locks and several tabs.
 */
import type { StreamFactory } from './connection.js';
import { createLeader, type FromLeader, type Leader, type ToLeader } from './leader.js';
import type { ClientMessage, ServerMessage } from './messages.js';

/** On the channel. `lead`: there is a new leader, to whom all tabs introduce themselves. */
type Note = ToLeader | FromLeader | { type: 'lead' };

/** The notes that only the leader receives; the others are the leader's. */
const TO_LEADER: ReadonlySet<string> = new Set<ToLeader['type']>(['tab', 'bye', 'say', 'reopen']);

/** A leader that does not answer a tab for this long is frozen, and the tab takes the lock from it. */
const PATIENCE_MS = 3000;

export const shared: StreamFactory = (open, win, site, strategy, events) => {
  const { document, navigator, BroadcastChannel: Channel } = win as Window & typeof globalThis;
  const { locks } = navigator;
  /** The stream of this tab only, where the tabs cannot share one. */
  const own = open(win, site, strategy, events);
  if (!locks || !Channel || site.headers || events.query().has('viewer')) return own;

  const key = [...win.crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');
  let wanted = false;
  /** The stream has no place for this tab, which therefore uses its own. */
  let full = false;
  /** Ends this tab's part in the sharing. */
  let leave: (() => void) | undefined;
  let send: (message: ClientMessage) => void = () => {};
  let reopen = () => {};
  /** Of the last stream, whoever led: the next leader names it. */
  let lastConnectionId: unknown;

  function join(): void {
    const name = `headcount 1 ${site.url('')}`;
    const lockOf = (key: string) => `${name} ${key}`;
    const channel = new Channel(name);
    const left = new AbortController();
    /** Holds a lock until this tab leaves. */
    const untilLeft = () => new Promise<void>((resolve) => left.signal.addEventListener('abort', () => resolve()));
    let leader: Leader | undefined;
    let candidacy: AbortController | undefined;
    let id: unknown;
    let openedWith: unknown;
    let answered = false;
    let patience: ReturnType<typeof setTimeout>;

    function fromLeader(note: FromLeader): void {
      answered = true;
      switch (note.type) {
        case 'ack':
          if (note.key !== key) return;
          if (note.full) {
            leave?.();
            full = true;
            return own.open();
          }
          if (note.connected) received(note.connected);
          return;
        case 'got':
          return received(note.message);
        case 'refused':
          return events.refused(note.message, note.status);
        case 'ended':
          if (note.status === 'closed') close();
          return events.ended(note.status, note.error);
      }
    }

    function received(message: ServerMessage): void {
      if (message.type === 'connected') {
        if (openedWith === message.connectionId) return;
        openedWith = lastConnectionId = message.connectionId;
      }
      if (message.type === 'tabs') id = Object(message.ids)[key] ?? id;
      else if (message.type !== 'to') events.message(message.type === 'stats' ? { ...message, yourId: id } : message);
      else if ([message.tabs].flat().includes(key)) events.message(message.message as ServerMessage);
    }

    const toLeader = (note: ToLeader) => (leader ? leader.receive(note) : channel.postMessage(note));

    function introduce(): void {
      const query = events.query();
      const text = (field: string) => query.get(field) ?? undefined;
      toLeader({ type: 'tab', tab: { key, version: text('version'), route: text('route'), hidden: document.hidden } });
      if (leader) return;
      answered = false;
      clearTimeout(patience);
      patience = setTimeout(() => answered || document.hidden || elect(true), PATIENCE_MS);
    }

    function elect(steal: boolean): void {
      candidacy?.abort();
      const { signal } = (candidacy = new AbortController());
      // A lock cannot be both stolen and given up waiting for.
      const held = locks.request(name, steal ? { steal } : { signal }, () => {
        if (left.signal.aborted) return;
        leader = createLeader({
          createStream: (events) => open(win, site, strategy, events),
          lastConnectionId: () => lastConnectionId,
          locks,
          lockOf,
          relay(note) {
            channel.postMessage(note);
            fromLeader(note);
          },
        });
        channel.postMessage({ type: 'lead' } satisfies Note);
        introduce();
        return untilLeft();
      });
      held.catch(() => {
        // Another tab took the lock, because this one was frozen; or this tab left while it was waiting.
        if (left.signal.aborted || signal.aborted) return;
        leave?.();
        events.ended('reconnecting', null);
        join();
      });
    }

    channel.onmessage = ({ data }: MessageEvent<Note>) => {
      if (data.type === 'lead') introduce();
      else if (TO_LEADER.has(data.type)) leader?.receive(data as ToLeader);
      else if (!leader) fromLeader(data as FromLeader);
    };
    document.addEventListener('visibilitychange', introduce);
    document.addEventListener('resume', introduce);
    send = (message) => (message.type === 'route-update' ? introduce() : toLeader({ type: 'say', key, message }));
    reopen = () => toLeader({ type: 'reopen' });
    leave = () => {
      leave = undefined;
      send = reopen = () => {};
      document.removeEventListener('visibilitychange', introduce);
      document.removeEventListener('resume', introduce);
      clearTimeout(patience);
      leader?.stop();
      const farewell: Note = leader ? { type: 'ended', status: 'reconnecting', error: null } : { type: 'bye', key };
      channel.postMessage(farewell);
      left.abort();
      candidacy?.abort();
      channel.close();
    };

    // Its own lock first: the leader must find it held.
    void locks.request(lockOf(key), () => {
      if (left.signal.aborted) return;
      elect(false);
      introduce();
      return untilLeft();
    });
  }

  function onPageEvent({ type }: Event): void {
    if (type === 'pagehide') {
      leave?.();
      events.ended('reconnecting', null);
    } else if (!leave && wanted && !full) join();
  }

  function close(): void {
    wanted = full = false;
    for (const type of ['pagehide', 'pageshow']) win.removeEventListener(type, onPageEvent);
    document.removeEventListener('prerenderingchange', onPageEvent);
    leave?.();
    own.close();
  }

  return {
    open() {
      if (full) return own.open();
      wanted = true;
      for (const type of ['pagehide', 'pageshow']) win.addEventListener(type, onPageEvent);
      document.addEventListener('prerenderingchange', onPageEvent);
      if (leave) reopen();
      else if (!(document as { prerendering?: boolean }).prerendering) join();
    },
    close,
    send: (message) => (full ? own.send(message) : send(message)),
  };
};
