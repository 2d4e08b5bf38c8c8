/**
 * Tabs that share a stream, in a browser made of fakes: what forbids sharing, and what a leader says when it leaves. How
 * tabs share in real browsers is tested by tests/e2e/test_shared.py.
 */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { HeadcountOptions } from '../src/index.js';
import { shared } from '../src/shared.js';
import { messages } from './fixtures.js';
import { openPage, type Page, settled } from './page.js';

const uncaught: unknown[] = [];
const onUncaught = (error: unknown) => void uncaught.push(error);

beforeEach(() => {
  vi.useFakeTimers();
  process.on('unhandledRejection', onUncaught);
});
afterEach(async () => {
  vi.useRealTimers();
  // Node reports a rejection that nobody handles after the microtasks of the turn.
  await new Promise((resolve) => setTimeout(resolve));
  process.off('unhandledRejection', onUncaught);
  expect(uncaught.splice(0)).toEqual([]);
});

interface Held {
  release(): void;
  steal(): void;
}

/** Web Locks and channels of one browser, whose tabs are pages. */
class Browser {
  readonly held = new Map<string, Held>();
  readonly waiting: { name: string; grant(): void }[] = [];
  readonly channels = new Set<any>();

  readonly locks = {
    request: (name: string, options: LockOptions, callback: () => unknown) =>
      new Promise<unknown>((resolve, reject) => {
        const entry = {
          name,
          grant: () => {
            const lock: Held = {
              release: () => {
                if (this.held.get(name) === lock) this.held.delete(name);
                const next = this.waiting.findIndex((each) => each.name === name);
                if (!this.held.has(name) && next >= 0) this.waiting.splice(next, 1)[0]!.grant();
              },
              steal: () => reject(new DOMException('stolen', 'AbortError')),
            };
            this.held.set(name, lock);
            queueMicrotask(() => Promise.resolve(callback()).then(resolve, reject).finally(lock.release));
          },
        };
        if (options.steal) this.held.get(name)?.steal();
        if (options.steal || !this.held.has(name)) return entry.grant();
        this.waiting.push(entry);
        options.signal?.addEventListener('abort', () => {
          const index = this.waiting.indexOf(entry);
          if (index < 0) return;
          this.waiting.splice(index, 1);
          reject(options.signal!.reason);
        });
      }),
  };

  readonly Channel = (() => {
    const { channels } = this;
    return class {
      onmessage: ((event: { data: unknown }) => void) | null = null;
      constructor(readonly name: string) {
        channels.add(this);
      }
      postMessage(data: unknown) {
        const text = structuredClone(data);
        for (const each of channels) {
          if (each !== this && each.name === this.name) queueMicrotask(() => each.onmessage?.({ data: text }));
        }
      }
      close() {
        channels.delete(this);
      }
    };
  })();

  open(options: HeadcountOptions = {}, prepare: (window: any) => void = () => {}): Page {
    const page = openPage({ stream: shared, routeTracking: true, ...options }, 'https://shop.example/a', (window) => {
      Object.assign(window, { BroadcastChannel: this.Channel, crypto: globalThis.crypto });
      window.navigator.locks = this.locks;
      prepare(window);
    });
    page.headcount.connect();
    return page;
  }
}

/** A page that shares has a stream on which it reports itself; the others are counted by what their stream says. */
const isCounted = ({ streams }: Page) =>
  streams.some(
    ({ url, closed }) => !closed && !url.searchParams.has('shared') && url.searchParams.get('route') === '/a',
  );

const throws = (name: string) => () => {
  throw new DOMException(`${name} is forbidden`, 'SecurityError');
};
const define = (target: object, name: string, get: () => unknown) => Object.defineProperty(target, name, { get });
const replaceRequest = (request: () => unknown) => (window: any) => {
  window.navigator.locks = { request };
};
const replaceChannel = (fields: object) => (window: any) => {
  const { BroadcastChannel } = window;
  window.BroadcastChannel = class extends BroadcastChannel {
    constructor(name: string) {
      super(name);
      Object.assign(this, fields);
    }
  };
};

describe.each(['sse', 'ws'] as const)('a page that may not share is counted by itself (%s)', (updateStrategy) => {
  test.each<[string, (window: any) => void]>([
    ['has no locks', (window) => void (window.navigator.locks = undefined)],
    ['may not look at locks', (window) => define(window.navigator, 'locks', throws('locks'))],
    ['is refused locks', replaceRequest(() => Promise.reject(new DOMException('denied', 'SecurityError')))],
    ['throws at locks', replaceRequest(throws('request'))],
    ['never answers about locks', replaceRequest(() => new Promise(() => {}))],
    ['has no channels', (window) => void (window.BroadcastChannel = undefined)],
    ['may not look at channels', (window) => define(window, 'BroadcastChannel', throws('BroadcastChannel'))],
    ['may not open channels', (window) => void (window.BroadcastChannel = throws('BroadcastChannel'))],
    ['may not post', replaceChannel({ postMessage: throws('postMessage') })],
    ['has no randomness', (window) => void (window.crypto = undefined)],
    ['throws at randomness', (window) => void (window.crypto = { getRandomValues: throws('crypto') })],
  ])('when it %s', async (_, prepare) => {
    const browser = new Browser();
    const page = browser.open({ updateStrategy }, prepare);
    await vi.advanceTimersByTimeAsync(3100);
    expect(isCounted(page)).toBe(true);
    page.streams.find(({ closed }) => !closed)!.connects();
    await settled();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
    page.navigate('/b');
    await settled();
    expect([...page.posts.map(({ body }) => body.route), ...page.stream.sent.map((each: any) => each.route)]).toContain(
      '/b',
    );
    page.headcount.close();
    expect(page.streams.every(({ closed }) => closed)).toBe(true);
    await vi.advanceTimersByTimeAsync(0);
    await vi.advanceTimersByTimeAsync(1000); // the second in which routes were counted
    expect(vi.getTimerCount()).toBe(0);
  });

  test('when its channel delivers nothing and another tab leads', async () => {
    const browser = new Browser();
    const leader = browser.open({ updateStrategy });
    await settled();
    await leader.stream.connects();
    const deaf = browser.open({ updateStrategy }, replaceChannel({ postMessage: () => {} }));
    await vi.advanceTimersByTimeAsync(3100);
    expect(isCounted(deaf)).toBe(true);
    expect(leader.streams.map(({ closed }) => closed)).toEqual([false]);
  });

  test('when it is hidden, too', async () => {
    const page = new Browser().open({ updateStrategy }, (window) => {
      window.navigator.locks = { request: () => new Promise(() => {}) };
      window.document.hidden = true;
    });
    await vi.advanceTimersByTimeAsync(3100);
    expect(isCounted(page)).toBe(true);
  });
});

test('tabs that do not hear one another are all counted, and stop taking the lock from one another', async () => {
  const browser = new Browser();
  const wall = new Browser();
  const first = browser.open({ updateStrategy: 'ws' });
  const second = browser.open({ updateStrategy: 'ws' }, (window) => void (window.BroadcastChannel = wall.Channel));
  const reported = (page: Page) =>
    page.streams.some(({ closed, sent }) => !closed && sent.some((each: any) => each.type === 'tabs'));
  for (let second_ = 0; second_ < 30; second_++) {
    for (const { streams } of [first, second]) {
      for (const stream of streams)
        if (!stream.closed && !stream.sent.length) await stream.connects({ connectionId: `${second_}` });
    }
    await vi.advanceTimersByTimeAsync(1000);
  }
  const opened = first.streams.length + second.streams.length;
  for (const page of [first, second]) expect(isCounted(page) || reported(page)).toBe(true);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(first.streams.length + second.streams.length).toBe(opened);
});

describe('a leader that leaves', () => {
  test('removes itself before it closes its WebSocket, and the next leader names it', async () => {
    const browser = new Browser();
    const leader = browser.open({ updateStrategy: 'ws' });
    await settled();
    await leader.stream.connects();
    const follower = browser.open({ updateStrategy: 'ws' });
    await settled();
    const [{ set }] = leader.stream.sent as any;
    leader.window.dispatchEvent(new Event('pagehide'));
    expect(leader.stream.sent.at(-1)).toEqual({ type: 'tabs', set: [], remove: [set[0].key] });
    expect(leader.stream.closed).toBe(true);
    await settled();
    expect(follower.stream.url.searchParams.get('replaces')).toBe(messages.server.connected.connectionId);
    await follower.stream.connects({ connectionId: 'next' });
    expect(follower.stream.sent[0]).toMatchObject({ remove: [set[0].key], set: [{ route: '/a' }] });
  });

  test('removes itself by a request that outlives the page', async () => {
    const browser = new Browser();
    const leader = browser.open();
    await settled();
    await leader.stream.connects();
    await settled();
    const [{ key }] = leader.posts[0]!.body.set;
    await leader.posts[0]!.answer(200);
    leader.window.dispatchEvent(new Event('pagehide'));
    await settled();
    const last = leader.posts.at(-1)!;
    expect(last.body).toEqual({ connectionId: messages.server.connected.connectionId, set: [], remove: [key] });
    expect(last.init).toMatchObject({ keepalive: true });
    expect(last.init.signal?.aborted ?? false).toBe(false);
  });

  test('does not remove itself when another tab took the lock from it', async () => {
    const browser = new Browser();
    const leader = browser.open({ updateStrategy: 'ws' });
    await settled();
    await leader.stream.connects();
    const before = leader.stream.sent.length;
    const name = [...browser.held.keys()].find((each) => each.split(' ').length === 3)!;
    browser.locks.request(name, { steal: true }, () => new Promise(() => {})).catch(() => {});
    await settled();
    expect(leader.streams[0]!.closed).toBe(true);
    expect(leader.streams[0]!.sent).toHaveLength(before);
  });
});

test.each(['sse', 'ws'] as const)(
  'tabs acknowledge and reply by the leader, with their keys (%s)',
  async (strategy) => {
    const browser = new Browser();
    const leader = browser.open({ updateStrategy: strategy });
    const other = browser.open({ updateStrategy: strategy });
    await settled();
    await leader.stream.connects({ connectionId: 'own' });
    await settled();
    await leader.posts.at(-1)?.answer(200);
    const sent = () => [...leader.posts.map(({ body }) => body), ...leader.stream.sent] as any[];
    const keys: string[] = sent().flatMap(({ set }) => (set ? set.map(({ key }: any) => key) : []));
    await leader.stream.says({ type: 'tabs', ids: Object.fromEntries(keys.map((key) => [key, key])) });
    const heard: unknown[] = [];
    other.headcount.onMessage((message) => heard.push(message));
    await leader.stream.says({ type: 'to', tabs: keys, message: { type: 'sale', acknowledge: '9f86d081884c7d65' } });
    await settled();
    expect(heard).toHaveLength(1);
    const acknowledged = sent().filter(({ type }) => type === 'acknowledge');
    expect(new Set(acknowledged.map(({ tab }) => tab))).toEqual(new Set(keys));
    expect(keys).toHaveLength(2);
    const reply = { type: 'release-reply', version: 'v2', reply: 'accepted' } as const;
    other.headcount.reply(reply);
    await settled();
    const key = sent().find(({ reply }) => reply)!.tab;
    expect(keys).toContain(key);
    expect(leader.beacons).toEqual([
      ['/__skew/release-reply', JSON.stringify({ connectionId: 'own', ...reply, tab: key })],
    ]);
    // Neither was taken for a subscription.
    await vi.advanceTimersByTimeAsync(100);
    expect(sent().filter(({ type }) => type === 'release-reply')).toHaveLength(1);
  },
);

test('the leader answers for all tabs when the server asks whether they are there', async () => {
  const browser = new Browser();
  const leader = browser.open({ updateStrategy: 'sse' });
  await settled();
  await leader.stream.connects();
  await settled();
  await leader.posts.at(-1)!.answer(200);
  await leader.stream.says({ type: 'tabs', ids: {} });
  const before = leader.posts.length;
  await leader.stream.says({ type: 'are-you-there' });
  expect(leader.posts.slice(before)).toMatchObject([{ path: '/__skew/tabs', body: { set: [], remove: [] } }]);
});

test.each([
  [404, 'text/html'],
  [501, 'text/html'],
  [200, 'text/html'],
  [413, 'application/problem+json'],
])('tabs whose report %d %s answers are counted by streams of their own', async (status, type) => {
  const browser = new Browser();
  const leader = browser.open({ updateStrategy: 'sse' });
  const other = browser.open({ updateStrategy: 'sse' });
  await settled();
  await leader.stream.connects();
  await settled();
  await leader.posts.at(-1)!.answer(status, { 'content-type': type });
  await settled();
  expect(leader.streams[0]!.closed).toBe(true);
  for (const page of [leader, other]) {
    expect(page.stream.url.searchParams.has('shared')).toBe(false);
    await page.stream.connects();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
  }
});

test('a tab that the server knows stays on the shared stream, and one that it does not hear of leaves it', async () => {
  const browser = new Browser();
  const leader = browser.open({ updateStrategy: 'sse' });
  await settled();
  await leader.stream.connects();
  await settled();
  const { set } = leader.posts.at(-1)!.body;
  await leader.posts.at(-1)!.answer(200);
  await leader.stream.says({ type: 'tabs', ids: { [set[0].key]: 'one' } });
  const other = browser.open({ updateStrategy: 'sse' });
  await settled();
  await leader.posts.at(-1)!.answer(404, { 'content-type': 'text/html' });
  await settled();
  expect(leader.stream.closed).toBe(false);
  expect(leader.headcount.getSnapshot().error).toContain('/__skew/tabs answered 404 (text/html)');
  expect(other.stream.url.searchParams.has('shared')).toBe(false);
  await vi.advanceTimersByTimeAsync(1000);
  await leader.posts.at(-1)!.answer(200);
  expect(leader.headcount.getSnapshot().error).toBeNull();
});

test('a tab whose version would be the ninth on the stream has a stream of its own', async () => {
  const browser = new Browser();
  const leader = browser.open({ updateStrategy: 'sse', version: 'v0' });
  await settled();
  await leader.stream.connects();
  await settled();
  await leader.posts.at(-1)!.answer(200);
  await leader.stream.says({ type: 'tabs', ids: {} });
  const others = Array.from({ length: 9 }, (_, number) =>
    browser.open({ updateStrategy: 'sse', version: `v${number}` }),
  );
  await settled();
  await vi.advanceTimersByTimeAsync(100);
  expect(others.map(({ streams }) => streams.length)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 1]);
  expect(others[8]!.stream.url.searchParams.has('shared')).toBe(false);
});

describe('a tab that could not be on the shared stream joins again', () => {
  const MINUTES_MS = 600_000;
  /** Of a stream that may be silent. */
  const SILENT = { keepaliveMs: undefined };

  /** Streams that are not closed, by whether tabs share them. */
  const open = ({ streams }: Page, shared: boolean) =>
    streams.filter(({ url, closed }) => !closed && url.searchParams.has('shared') === shared);

  /** A browser whose only tab has a stream of its own, because its report was refused. */
  async function refused() {
    const browser = new Browser();
    const page = browser.open({ updateStrategy: 'sse' });
    await settled();
    await page.stream.connects();
    await settled();
    await page.posts.at(-1)!.answer(404, { 'content-type': 'text/html' });
    await settled();
    await page.stream.connects({ ...SILENT, connectionId: 'own' });
    return { browser, page };
  }

  test('and leaves its own stream when the server knows it on the shared one', async () => {
    const { page } = await refused();
    await vi.advanceTimersByTimeAsync(MINUTES_MS - 1);
    expect(open(page, true)).toHaveLength(0);
    const seen: unknown[] = [];
    page.headcount.subscribe(({ status, error }) => seen.push([status, error]));
    await vi.advanceTimersByTimeAsync(1);
    const [shared] = open(page, true);
    await shared!.connects({ ...SILENT, connectionId: 'shared' });
    await settled();
    const { path, body } = page.posts.at(-1)!;
    expect([path, body.connectionId]).toEqual(['/__skew/tabs', 'shared']);
    await page.posts.at(-1)!.answer(200);
    expect(open(page, false)).toHaveLength(1);
    await shared!.says({ type: 'tabs', ids: { [body.set[0].key]: 'public' } });
    expect(open(page, false)).toHaveLength(0);
    expect(page.beacons.at(-1)).toEqual(['/__skew/bye', JSON.stringify({ connectionId: 'own' })]);
    expect(new Set(seen.map(String))).toEqual(new Set(['open,']));
    page.navigate('/b');
    await settled();
    expect(page.posts.at(-1)!.body).toMatchObject({ connectionId: 'shared', set: [{ route: '/b' }] });
    await vi.advanceTimersByTimeAsync(2 * MINUTES_MS);
    expect(page.streams.filter(({ url }) => url.searchParams.has('shared'))).toHaveLength(2);
  });

  test('and keeps its own stream while it is refused', async () => {
    const { page } = await refused();
    for (let trial = 0; trial < 3; trial++) {
      await vi.advanceTimersByTimeAsync(MINUTES_MS);
      const [shared] = open(page, true);
      await shared!.connects({ connectionId: `shared ${trial}` });
      await settled();
      await page.posts.at(-1)!.answer(404, { 'content-type': 'text/html' });
      await settled();
      expect([open(page, true).length, open(page, false).length]).toEqual([0, 1]);
      expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
    }
  });

  test('and keeps its own stream when the shared one ends', async () => {
    const { page } = await refused();
    await vi.advanceTimersByTimeAsync(MINUTES_MS);
    await open(page, true)[0]!.connects({ ...SILENT, connectionId: 'shared' });
    await open(page, true)[0]!.breaks();
    expect([open(page, true).length, open(page, false).length]).toEqual([0, 1]);
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
    await vi.advanceTimersByTimeAsync(MINUTES_MS);
    expect(open(page, true)).toHaveLength(1);
  });

  test('when there is a place', async () => {
    const browser = new Browser();
    const leader = browser.open({ updateStrategy: 'sse', version: 'v0' });
    await settled();
    await leader.stream.connects(SILENT);
    await settled();
    const others = Array.from({ length: 8 }, (_, number) =>
      browser.open({ updateStrategy: 'sse', version: `v${number + 1}` }),
    );
    await settled();
    let answered = 0;
    const answer = async () => {
      await settled();
      for (; answered < leader.posts.length; answered++) {
        const { body } = leader.posts[answered]!;
        await leader.posts[answered]!.answer(200);
        await leader.stream.says({ type: 'tabs', ids: Object.fromEntries(body.set.map(({ key }: any) => [key, key])) });
        await settled();
      }
    };
    await answer();
    const ninth = others.at(-1)!;
    await ninth.stream.connects({ ...SILENT, connectionId: 'ninth' });
    others[0]!.headcount.close();
    await answer();
    await vi.advanceTimersByTimeAsync(MINUTES_MS);
    expect(ninth.streams.map(({ closed }) => closed)).toEqual([false]);
    await answer();
    expect(ninth.streams.map(({ closed }) => closed)).toEqual([true]);
    expect(leader.streams.map(({ closed }) => closed)).toEqual([false]);
    ninth.navigate('/b');
    await answer();
    expect(leader.posts.flatMap(({ body }) => body.set)).toContainEqual(
      expect.objectContaining({ version: 'v8', route: '/b' }),
    );
  });

  test('and takes the lock from no other tab', async () => {
    const { browser, page } = await refused();
    browser.open({ updateStrategy: 'sse' });
    await settled();
    const steal = vi.fn();
    // The tab that leads now is frozen.
    for (const channel of browser.channels) channel.onmessage = null;
    for (const held of browser.held.values()) held.steal = steal;
    await vi.advanceTimersByTimeAsync(MINUTES_MS + 10_000);
    expect(browser.waiting.filter(({ name }) => name.split(' ').length === 3)).toEqual([]);
    expect(steal).not.toHaveBeenCalled();
    expect(open(page, false)).toHaveLength(1);
  });

  test('unless it is closed', async () => {
    const { page } = await refused();
    page.headcount.close();
    await vi.advanceTimersByTimeAsync(2 * MINUTES_MS);
    expect(page.streams.every(({ closed }) => closed)).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });
});
