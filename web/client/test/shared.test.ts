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

test('a report that a page of HTML answers is said in every tab, and sent again', async () => {
  const browser = new Browser();
  const leader = browser.open({ updateStrategy: 'sse' });
  const other = browser.open({ updateStrategy: 'sse' });
  await settled();
  await leader.stream.connects();
  await settled();
  const before = leader.posts.length;
  await leader.posts.at(-1)!.answer(200, { 'content-type': 'text/html' });
  for (const { headcount } of [leader, other]) {
    expect(headcount.getSnapshot().error).toBe(
      'https://shop.example/__skew answered 200 (text/html). Is it passed on to Headcount?',
    );
  }
  await vi.advanceTimersByTimeAsync(31_000);
  expect(leader.posts.slice(before - 1).map(({ path }) => path)).toEqual(['/__skew/tabs', '/__skew/tabs']);
  await leader.posts.at(-1)!.answer(200);
  expect(other.headcount.getSnapshot().error).toBeNull();
});
