/**
 * One stream for all tabs of a browser: `createHeadcount({ stream: shared })`.
 *
 * The tab that holds a Web Lock is the leader (leader.ts): it has the stream and relays over a BroadcastChannel. The other
 * tabs wait for the lock, and one of them gets it as soon as the leader is gone. Each tab also holds a lock of its own,
 * and the leader waits for that lock, so it notices a tab that crashes like one that closes.
 *
 * Every tab builds its state from the relay as if it had a stream: `connected` makes it subscribe, `ended` makes its
 * figures stale. A tab has a stream of its own where locks or channels are missing, for viewers, and with `headers`, which
 * may belong to that tab only. So has a tab whose browser forbids either, in whatever way: it throws, rejects, never
 * answers, or delivers nothing; and one that finds no place on the shared stream, or whose report is refused there.
 *
 * A tab that has left tries to join again after some minutes, unless its browser delivers nothing. It leaves its own stream
 * only when the server knows it on the shared one, so it is never missing from the figures, and takes the lock from no tab.
 *
 * Tests: web/client/test/shared.test.ts and, because only a browser has Web Locks and several tabs, tests/e2e/test_shared.py.
 */
import type { StreamFactory } from './connection.js';
import { createLeader, type FromLeader, type Leader, type LockRequest, type ToLeader } from './leader.js';
import type { ClientMessage, ServerMessage } from './messages.js';
import type { Site } from './transport.js';

/** On the channel. `lead`: there is a new leader, to whom all tabs introduce themselves. */
type Note = ToLeader | FromLeader | { type: 'lead'; key: string };

/**
 * A leader that does not answer a tab for this long is frozen, and the tab takes the lock from it. A browser that does not
 * answer for this long forbids sharing.
 */
const PATIENCE_MS = 3000;
/** A hidden tab asks the leader so often, because its timers may be ahead of its messages. */
const HIDDEN_TRIES = 3;
/** Two tabs that take the lock from one another within this time do not hear one another. */
const DEAF_MS = 60_000;
/** After this time a tab with a stream of its own tries to join again. */
const REJOIN_MS = 600_000;

export const shared: StreamFactory = (open, win, site, strategy, events) => {
  const { document } = win;
  /** The stream of this tab only, where the tabs cannot share one. */
  const own = open(win, site, strategy, events);
  const key = site.headers || events.query().has('viewer') ? '' : randomKey(win);
  if (!key) return own;

  let wanted = false;
  /** The shared stream has no place for this tab, or the browser forbids sharing: the tab uses its own. */
  let alone = false;
  let rejoining: ReturnType<typeof setTimeout>;
  /** The channel delivers: the notes of this tab are heard in it. */
  let isHeard = false;
  /** Ends this tab's part in the sharing; `returns`: it takes part again at once. */
  let leave: ((returns?: boolean) => void) | undefined;
  /** The page is being left, and the last request must outlive it. */
  let parting = false;
  const sharedSite: Site = Object.create(site, {
    fetch: {
      value: (input: RequestInfo, init?: RequestInit) =>
        site.fetch(input, parting ? { ...init, keepalive: true, signal: null } : init),
    },
  });
  let send: (message: ClientMessage) => void = () => {};
  let reopen = () => {};
  /** Of the last stream, whoever led: the next leader names it. */
  let lastConnectionId: unknown;
  /** The tab that led that stream, if it has left. */
  let departed: string | undefined;
  /** When another tab took the lock from this one. */
  let robbedAt = 0;

  function goAlone(): void {
    leave?.();
    clearTimeout(rejoining);
    rejoining = setTimeout(() => isHeard && join(), REJOIN_MS);
    if (alone) return;
    alone = true;
    if (wanted) own.open();
  }

  function join(): void {
    try {
      share();
    } catch {
      goAlone();
    }
  }

  function share(): void {
    const { BroadcastChannel: Channel, navigator } = win as Window & typeof globalThis;
    const name = `headcount 1 ${site.url('')}`;
    const lockOf = (key: string) => `${name} ${key}`;
    // Async, so that a call that throws rejects.
    const lock: LockRequest = async (...request) => navigator.locks.request(...request);
    const channel = new Channel(name);
    const ear = new Channel(name);
    const left = new AbortController();
    /** Holds a lock until this tab leaves. */
    const untilLeft = new Promise<unknown>((resolve) => left.signal.addEventListener('abort', resolve));
    let leader: Leader | undefined;
    let candidacy: AbortController | undefined;
    let id: unknown;
    let connected: ServerMessage | undefined;
    let tries = 0;
    let isThief = false;
    let patience: ReturnType<typeof setTimeout>;

    function fromLeader(note: FromLeader): void {
      switch (note.type) {
        case 'ack':
          if (note.key !== key) return;
          clearTimeout(patience);
          tries = 0;
          if (note.full) return goAlone();
          if (note.connected) received(note.connected);
          return;
        case 'got':
          return received(note.message);
        case 'ended':
          departed = note.left;
          if (alone) return goAlone();
          if (note.status === 'closed') close();
          return events.ended(note.status, note.error);
        case 'refused':
          if (!alone) events.refused(note.message, note.status, note.error);
          // What cannot be reported is not counted. A tab that the server knows stays.
          if (note.error && 'set' in note.message && !id) goAlone();
      }
    }

    function received(message: ServerMessage): void {
      if (message.type === 'connected') {
        if (connected?.connectionId === message.connectionId) return;
        connected = message;
        lastConnectionId = message.connectionId;
        departed = id = undefined;
      }
      if (message.type === 'tabs') id = Object(message.ids)[key] ?? id;
      if (alone) {
        // Its own stream is the one that counts until the server knows this tab on the shared one.
        if (!id) return;
        alone = false;
        own.close();
        message = connected!;
      }
      if (message.type === 'tabs') return;
      if (message.type !== 'to') events.message(message.type === 'stats' ? { ...message, yourId: id } : message);
      else if ([message.tabs].flat().includes(key)) events.message(message.message as ServerMessage);
    }

    function post(note: Note): void {
      try {
        channel.postMessage(note);
      } catch {
        if (leave) goAlone();
      }
    }

    const toLeader = (note: ToLeader) => (leader ? leader.receive(note) : post(note));

    function introduce(): void {
      const { version, route } = Object.fromEntries(events.query());
      toLeader({ type: 'tab', tab: { key, version, route, hidden: document.hidden } });
      if (!leader) wait();
    }

    function wait(): void {
      clearTimeout(patience);
      patience = setTimeout(() => {
        if (alone || !isHeard || isThief) return goAlone();
        if (document.hidden && ++tries < HIDDEN_TRIES) return introduce();
        isThief = true;
        elect(true);
        wait();
      }, PATIENCE_MS);
    }

    function elect(steal: boolean): void {
      candidacy?.abort();
      const { signal } = (candidacy = new AbortController());
      // A lock cannot be both stolen and given up waiting for.
      const held = lock(name, steal ? { steal } : { signal }, () => {
        if (left.signal.aborted) return;
        // Nobody hears a leader that its own ear does not hear.
        if (isHeard) clearTimeout(patience);
        else wait();
        leader = createLeader({
          createStream: (events) => open(win, sharedSite, strategy, events),
          lastConnectionId: () => lastConnectionId,
          left: departed,
          lock,
          lockOf,
          relay(note) {
            post(note);
            fromLeader(note);
          },
        });
        post({ type: 'lead', key });
        introduce();
        return untilLeft;
      });
      held.catch(() => {
        // This tab left while it was waiting.
        if (left.signal.aborted || signal.aborted) return;
        const now = Date.now();
        // The browser refuses the lock; or another tab took it, because this one was frozen or cannot be heard.
        if (alone || !leader || now - robbedAt < DEAF_MS) return goAlone();
        robbedAt = now;
        leave?.(true);
        events.ended('reconnecting', null);
        join();
      });
    }

    function takePart(): void {
      ear.onmessage = ({ data }: MessageEvent<{ key?: string; tab?: { key: string } }>) => {
        if ((data.tab ?? data).key !== key) return;
        isHeard = true;
        if (leader) clearTimeout(patience);
        ear.close();
      };
      channel.onmessage = ({ data }: MessageEvent<Note>) => {
        if (data.type === 'lead') introduce();
        // Each ignores what is for the other.
        else if (leader) leader.receive(data as ToLeader);
        else fromLeader(data as FromLeader);
      };
      // Browsers that have locks know `signal`.
      document.addEventListener('visibilitychange', introduce, left);
      document.addEventListener('resume', introduce, left);
      send = (message) => {
        if (message.type === 'route-update') introduce();
        else if (/-stats/.test(message.type)) toLeader({ type: 'say', key, message });
        // Of a type that leaders of earlier builds do not take for a subscription.
        else toLeader({ type: 'answer', message: { ...message, tab: key } as ClientMessage });
      };
      reopen = () => toLeader({ type: 'reopen' });
      elect(false);
      introduce();
    }

    leave = (returns) => {
      leave = undefined;
      send = reopen = () => {};
      clearTimeout(patience);
      const gone = returns ? '' : key;
      if (gone && lastConnectionId) {
        win.navigator.sendBeacon?.(site.url('/bye'), JSON.stringify({ connectionId: lastConnectionId, tab: key }));
      }
      parting = true;
      leader?.stop(gone);
      parting = false;
      post(leader ? { type: 'ended', status: 'reconnecting', error: null, left: gone } : { type: 'bye', key });
      left.abort();
      candidacy?.abort();
      channel.close();
      ear.close();
    };

    // A browser that forbids locks may never answer.
    wait();
    // Its own lock first: a leader that finds it free takes this tab for gone.
    lock(lockOf(key), {}, () => {
      if (left.signal.aborted) return;
      takePart();
      return untilLeft;
    }).catch(() => left.signal.aborted || goAlone());
  }

  function onPageEvent({ type }: Event): void {
    if (type === 'pagehide') {
      leave?.();
      events.ended('reconnecting', null);
    } else if (!leave && wanted && !alone) join();
  }

  function close(): void {
    wanted = alone = false;
    clearTimeout(rejoining);
    for (const type of ['pagehide', 'pageshow']) win.removeEventListener(type, onPageEvent);
    document.removeEventListener('prerenderingchange', onPageEvent);
    leave?.();
    own.close();
  }

  return {
    open() {
      if (alone) return own.open();
      wanted = true;
      for (const type of ['pagehide', 'pageshow']) win.addEventListener(type, onPageEvent);
      document.addEventListener('prerenderingchange', onPageEvent);
      if (leave) reopen();
      else if (!(document as { prerendering?: boolean }).prerendering) join();
    },
    close,
    send: (message) => (alone ? own.send(message) : send(message)),
  };
};

/** A secret, or "" where a browser lacks or forbids what sharing needs. */
function randomKey(win: Window): string {
  try {
    const { BroadcastChannel, crypto, navigator } = win as Window & typeof globalThis;
    if (!BroadcastChannel || !navigator.locks) return '';
    return crypto.getRandomValues(new Uint8Array(16)).join('-');
  } catch {
    return '';
  }
}
