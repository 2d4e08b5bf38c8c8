import { afterEach, beforeEach, describe, expect, expectTypeOf, test, vi } from 'vitest';
import { createHeadcount, latestHeadcount, type Snapshot } from '../src/index.js';
import { deltas, messages } from './fixtures.js';
import { openPage, type Page, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const { stats, 'stats-delta': delta, 'stats-unauthorized': unauthorized } = messages.server;
const nothing = { total: 0, versions: {}, routes: {}, connections: [], yourId: undefined };

/** A page with one subscriber, whose stream is open. */
async function watching(options: Parameters<typeof openPage>[0] = {}) {
  const page = openPage({ updateStrategy: 'ws', ...options });
  const listener = vi.fn();
  const leave = page.headcount.subscribe(listener);
  await page.stream.connects();
  listener.mockClear();
  return Object.assign(page, { listener, leave });
}

const snapshot = (page: Page) => page.headcount.getSnapshot();
const types = (page: Page) => page.stream.sent.map((message: any) => message.type);

describe('without a window', () => {
  test('it can be created and used, and nothing happens', () => {
    const headcount = createHeadcount({ version: 'v1', routeTracking: true });
    headcount.connect();
    headcount.subscribe(() => {})();
    headcount.setRoute('/a');
    headcount.reconnect();
    expect(headcount.getSnapshot()).toMatchObject({ ...nothing, authorized: null, status: 'idle', error: null });
    headcount.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  test('all pages begin with the same snapshot', () => {
    const [a, b] = [createHeadcount(), createHeadcount()];
    expect(a.getServerSnapshot()).toBe(b.getServerSnapshot());
    expect(a.getSnapshot()).toBe(a.getServerSnapshot());
  });
});

describe('a script that runs again in the same page', () => {
  const window = openPage().window;
  const headers = () => ({ authorization: 'Bearer 1' });

  test('gets the client that it made before', async () => {
    const first = createHeadcount({ version: 'v2', routeTracking: true, window });
    expect(createHeadcount({ version: 'v2', routeTracking: true, window })).toBe(first);
    expect(createHeadcount({ version: 'v2', routeTracking: true, headers, window })).toBe(
      createHeadcount({ version: 'v2', routeTracking: true, headers, window }),
    );
    // A bundle brings its own copy of this module.
    vi.resetModules();
    const again = await import('../src/index.js');
    expect(again.createHeadcount).not.toBe(createHeadcount);
    expect(again.createHeadcount({ version: 'v2', routeTracking: true, window })).toBe(first);
    expect(again.latestHeadcount()).toBe(first);
  });

  test.each([
    ['version', { version: 'v3' }],
    ['server', { url: 'https://live.example' }],
    ['role', { viewer: true }],
    ['headers', { headers }],
    ['other headers', { headers: { authorization: 'Bearer 2' } }],
  ])('gets another one for another %s', (_name, options) => {
    const all = { version: 'v2', window, headers: { authorization: 'Bearer 1' } };
    expect(createHeadcount({ ...all, ...options })).not.toBe(createHeadcount(all));
  });

  test('is no matter of other pages, and not of a server that renders', () => {
    const other = openPage().window;
    expect(createHeadcount({ window: other })).not.toBe(createHeadcount({ window }));
    expect(createHeadcount({ version: 'v2' })).not.toBe(createHeadcount({ version: 'v2' }));
  });
});

describe('what opens the stream', () => {
  test('nothing does before connect', async () => {
    const page = openPage();
    page.headcount.onMessage(() => {});
    page.headcount.setRoute('/a');
    page.headcount.reconnect();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(page.streams).toHaveLength(0);
    page.headcount.connect();
    page.headcount.connect();
    expect(page.streams).toHaveLength(1);
  });

  test('a page that is merely counted does not ask for statistics', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    page.headcount.connect();
    await page.stream.connects();
    expect(page.stream.sent).toEqual([]);
    await page.stream.says(stats);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: null });
  });

  test('the first subscriber does, and all share one stream and one subscription', async () => {
    const page = await watching();
    page.headcount.subscribe(() => {});
    page.headcount.connect();
    expect(page.streams).toHaveLength(1);
    expect(types(page)).toEqual(['subscribe-stats']);
  });

  test('a subscriber that comes later asks on the stream that is there', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    page.headcount.connect();
    await page.stream.connects();
    page.headcount.subscribe(() => {});
    expect(page.streams).toHaveLength(1);
    expect(types(page)).toEqual(['subscribe-stats']);
  });
});

describe('leaving', () => {
  test('the last one ends the stream that only subscribers wanted', async () => {
    const page = await watching();
    const leaveToo = page.headcount.subscribe(() => {});
    await page.stream.says(stats);
    page.leave();
    page.leave();
    await settled();
    expect(page.stream.closed).toBe(false);
    leaveToo();
    await settled();
    expect(page.stream.closed).toBe(true);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: null, status: 'idle' });
    expect(vi.getTimerCount()).toBe(0);
  });

  test('the last one ends only the subscription of a page that is counted', async () => {
    const page = await watching();
    page.headcount.connect();
    await page.stream.says(stats);
    page.leave();
    await settled();
    expect(page.stream.closed).toBe(false);
    expect(types(page)).toEqual(['subscribe-stats', 'unsubscribe-stats']);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: null, status: 'open' });
  });

  test('what was on its way then changes nothing', async () => {
    const page = await watching();
    page.headcount.connect();
    await page.stream.says(stats);
    page.leave();
    await settled();
    const before = snapshot(page);
    for (const late of [delta, stats, unauthorized]) await page.stream.says(late);
    expect(snapshot(page)).toBe(before);
  });

  test('a subscriber that follows at once keeps all as it is', async () => {
    const page = await watching();
    await page.stream.says(stats);
    page.leave();
    page.headcount.subscribe(() => {});
    await settled();
    expect(page.streams).toHaveLength(1);
    expect(types(page)).toEqual(['subscribe-stats']);
    expect(snapshot(page).total).toBe(2);
  });

  test('the same function may subscribe twice', async () => {
    const page = await watching();
    const leave = page.headcount.subscribe(page.listener);
    leave();
    page.listener.mockClear();
    await page.stream.says(stats);
    expect(page.listener).toHaveBeenCalledOnce();
  });

  test('close ends all until somebody wants it again', async () => {
    const page = await watching();
    page.headcount.connect();
    page.headcount.close();
    expect(page.stream.closed).toBe(true);
    page.headcount.subscribe(() => {});
    expect(page.streams).toHaveLength(1);
    page.headcount.connect();
    expect(page.streams).toHaveLength(2);

    const other = openPage();
    other.headcount.connect();
    other.headcount.close();
    other.headcount.subscribe(() => {});
    expect(other.streams).toHaveLength(2);
  });
});

describe('the current version', () => {
  test('comes when the stream opens, and with each release afterwards', async () => {
    const page = await watching();
    expect(snapshot(page)).toMatchObject({ serverVersion: '2026.11.3', currentVersion: '2026.11.4' });
    expect(snapshot(page).release).toEqual({ state: 'declared', version: '2026.11.4', number: 1795469500000 });
    const heard: unknown[] = [];
    page.headcount.onMessage(() => heard.push([snapshot(page).currentVersion, snapshot(page).release?.number]));
    await page.stream.says({ ...messages.server.version, version: '2026.11.5' });
    expect(heard).toEqual([['2026.11.5', 1795469599000]]);
    expect(snapshot(page)).toMatchObject({ serverVersion: '2026.11.3', currentVersion: '2026.11.5' });
  });

  test('keeps its release when the right to see figures is withdrawn', async () => {
    const page = await watching();
    await page.stream.says(messages.server['stats-unauthorized']);
    expect(snapshot(page)).toMatchObject({ currentVersion: '2026.11.4', release: { number: 1795469500000 } });
  });

  test.each([
    undefined,
    null,
    'v2',
    { state: 'declared', version: 'v2', number: '7' },
    { state: 'declared', number: -1 },
  ])('is of a release that is not known where the server says %j', async (release) => {
    const page = await watching();
    await page.stream.says({ ...messages.server.version, version: 'v2', release });
    expect([snapshot(page).currentVersion, snapshot(page).release]).toEqual(['v2', undefined]);
  });

  test('is of no known release where the server does not number them', async () => {
    const page = openPage();
    page.headcount.connect();
    await page.stream.connects({ release: undefined });
    expect([snapshot(page).currentVersion, snapshot(page).release]).toEqual(['2026.11.4', undefined]);
  });

  test('is not known where the server does not say it', async () => {
    const page = openPage();
    page.headcount.connect();
    expect(snapshot(page).currentVersion).toBeUndefined();
    await page.stream.connects({ currentVersion: undefined });
    expect(snapshot(page)).toMatchObject({ serverVersion: '2026.11.3', currentVersion: undefined });
  });

  test('follows the figures, which say when it is not known any more', async () => {
    const page = await watching();
    const mixed = { reporting: 2, expected: 2, versions: { v1: 1, v2: 1 } };
    await page.stream.says({ ...messages.server.stats, revision: 7, currentVersion: 'v1' });
    expect(snapshot(page).currentVersion).toBe('v1');
    const delta = { ...messages.server['stats-delta'], base: 7, revision: 8, currentVersion: undefined };
    await page.stream.says(delta);
    expect(snapshot(page).currentVersion).toBe('v1');
    await page.stream.says({ ...delta, base: 8, revision: 9, nodes: mixed, currentVersion: null });
    expect(snapshot(page)).toMatchObject({ currentVersion: undefined, nodes: mixed });
    await page.stream.says({ ...delta, base: 9, revision: 10, currentVersion: 'v2' });
    expect(snapshot(page).currentVersion).toBe('v2');
    await page.stream.says({ ...messages.server.stats, revision: 11, nodes: mixed, currentVersion: undefined });
    expect(snapshot(page).currentVersion).toBeUndefined();
  });
});

describe('statistics', () => {
  test('pend until the server has decided', async () => {
    const page = await watching();
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: null, status: 'open', serverVersion: '2026.11.3' });
    await page.stream.says(stats);
    const { type, release, ...figures } = stats;
    expect(snapshot(page)).toMatchObject({ ...figures, authorized: true, isStale: false });
  });

  test('stay empty for those who are denied', async () => {
    const page = await watching();
    await page.stream.says(unauthorized);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: false });
  });

  test('are taken away with the right', async () => {
    const page = await watching();
    await page.stream.says(stats);
    await page.stream.says(unauthorized);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: false, revision: 0 });
    await page.stream.says(delta);
    expect(snapshot(page).total).toBe(0);
  });

  test('are another object with each update, and the same one in between', async () => {
    const page = await watching();
    await page.stream.says(stats);
    const first = snapshot(page);
    expect(snapshot(page)).toBe(first);
    await page.stream.says(messages.server.keepalive);
    await page.stream.says(messages.server.pong);
    expect(snapshot(page)).toBe(first);
    expect(page.listener).toHaveBeenCalledOnce();
    await page.stream.says(delta);
    expect(snapshot(page)).not.toBe(first);
    expect(first.total).toBe(2);
    expect(page.listener).toHaveBeenCalledTimes(2);
  });

  test('say how whole they are', async () => {
    const page = await watching();
    const share = { partial: true, nodes: { reporting: 1, expected: 2 }, connectionsTruncated: true };
    await page.stream.says({ ...stats, ...share });
    expect(snapshot(page)).toMatchObject(share);
  });

  test('are typed as promised', () => {
    expectTypeOf<Snapshot>().toMatchTypeOf<{
      total: number;
      versions: Record<string, number>;
      routes: Record<string, number>;
      connections: { id: string; version: string; route: string; ip?: string }[];
      yourId: string | undefined;
      authorized: boolean | null;
      error: string | null;
    }>();
  });
});

describe('deltas', () => {
  test.each(deltas)('golden: $name', async ({ before, delta, after }) => {
    const page = await watching();
    await page.stream.says({ type: 'stats', ...before, yourId: 'me' });
    await page.stream.says(delta);
    const { versions, routes, ...rest } = after;
    expect(snapshot(page)).toMatchObject({ ...rest, yourId: 'me', authorized: true, isStale: false });
    expect(Object.entries(snapshot(page).versions)).toEqual(Object.entries(versions));
    expect(Object.entries(snapshot(page).routes)).toEqual(Object.entries(routes));
  });

  test('are asked for unless the page does not want them', async () => {
    expect((await watching()).stream.sent).toEqual([{ type: 'subscribe-stats', deltas: true }]);
    expect((await watching({ deltas: false })).stream.sent).toEqual([{ type: 'subscribe-stats', deltas: false }]);
  });

  test('that miss something are ignored, and whole figures asked for once', async () => {
    const page = await watching();
    await page.stream.says(stats);
    for (const base of [8, 9, 7]) await page.stream.says({ ...delta, base });
    expect(types(page)).toEqual(['subscribe-stats', 'subscribe-stats']);
    expect(snapshot(page)).toMatchObject({ total: 2, revision: 7, authorized: true, isStale: true });
    await page.stream.says({ ...stats, revision: 12, total: 4 });
    expect(snapshot(page)).toMatchObject({ total: 4, isStale: false });
    await page.stream.says({ ...delta, base: 12, revision: 13 });
    expect(snapshot(page)).toMatchObject({ total: 3, revision: 13 });
    expect(types(page)).toHaveLength(2);
  });

  test('that cannot be meant are treated alike', async () => {
    const page = await watching();
    await page.stream.says(stats);
    await page.stream.says({ ...delta, total: 'many' });
    expect(types(page)).toHaveLength(2);
    expect(snapshot(page).total).toBe(2);
  });

  test('mean nothing before whole figures have come', async () => {
    const page = await watching();
    await page.stream.says({ ...delta, base: 0 });
    expect(types(page)).toEqual(['subscribe-stats']);
    expect(snapshot(page).total).toBe(0);
  });

  test('of a new stream do not continue the figures of the old one', async () => {
    const page = await watching();
    await page.stream.says(stats);
    page.headcount.reconnect();
    await page.stream.connects();
    await page.stream.says(delta);
    expect(snapshot(page)).toMatchObject({ total: 2, isStale: true });
  });
});

describe('after a reconnect', () => {
  test('nothing is shown to a page whose last subscriber left meanwhile', async () => {
    const page = await watching();
    page.headcount.connect();
    await page.stream.says(stats);
    await page.stream.breaks();
    page.leave();
    await vi.advanceTimersByTimeAsync(1000);
    await page.stream.connects();
    await page.stream.says({ ...delta, base: 0 });
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: null, isStale: false });
    expect(page.stream.sent).toEqual([]);
  });

  test.each(['sse', 'ws'] as const)('%s asks again, with stale figures meanwhile', async (updateStrategy) => {
    const page = await watching({ updateStrategy });
    await page.stream.says(stats);
    await page.stream.breaks();
    expect(snapshot(page)).toMatchObject({ total: 2, authorized: true, isStale: true, status: 'reconnecting' });
    expect(page.stream.url.searchParams.has('reconnect')).toBe(false);
    await vi.advanceTimersByTimeAsync(1000);
    expect(page.stream.url.searchParams.get('reconnect')).toBe('1');
    await page.stream.connects({ connectionId: 'second' });
    expect(snapshot(page)).toMatchObject({ total: 2, authorized: true, isStale: true, status: 'open' });
    const asked = updateStrategy === 'ws' ? page.stream.sent : [page.posts.at(-1)!.body];
    expect(asked).toMatchObject([updateStrategy === 'ws' ? { type: 'subscribe-stats' } : { connectionId: 'second' }]);
    await page.stream.says({ ...stats, revision: 1, total: 9 });
    expect(snapshot(page)).toMatchObject({ total: 9, isStale: false });
  });

  test('a route that changes before the first message of the server is reported', async () => {
    const page = openPage({ updateStrategy: 'ws', routeTracking: true });
    page.headcount.connect();
    page.navigate('/b');
    expect(page.stream.sent).toEqual([]);
    await page.stream.connects();
    expect(page.stream.sent).toEqual([{ type: 'route-update', route: '/b' }]);
  });

  test('by hand, those who were denied are asked about anew', async () => {
    const page = await watching();
    await page.stream.says(unauthorized);
    page.headcount.reconnect();
    expect(page.streams.map(({ closed }) => closed)).toEqual([true, false]);
    await page.stream.connects();
    expect(snapshot(page).authorized).toBe(null);
    await page.stream.says(stats);
    expect(snapshot(page).authorized).toBe(true);
  });
});

describe('routes', () => {
  test('are not sent at all without route tracking', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    const { pushState } = page.window.history;
    page.headcount.connect();
    await page.stream.connects();
    page.navigate('/b');
    expect(page.window.history.pushState).toBe(pushState);
    expect(page.stream.url.searchParams.has('route')).toBe(false);
    expect(page.stream.sent).toEqual([]);
  });

  test('can be told by hand then, and are kept for the next stream', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    page.headcount.connect();
    await page.stream.connects();
    for (const route of ['/b?x=1#y', '/b', '', '/\u0000c' + 'x'.repeat(600)]) page.headcount.setRoute(route);
    const long = '/c' + 'x'.repeat(509);
    expect(page.stream.sent.map((message: any) => message.route)).toEqual(['/b', '/', long]);
    page.headcount.reconnect();
    expect(page.stream.url.searchParams.get('route')).toBe(long);
  });

  test('are followed with route tracking, each change once, and no longer after close', async () => {
    const page = openPage({ updateStrategy: 'ws', routeTracking: true });
    const { pushState } = page.window.history;
    page.headcount.connect();
    await page.stream.connects();
    for (const url of ['/landing#other', '/shipping?q', '/shipping', '/landing']) page.navigate(url);
    expect(page.stream.sent.map((message: any) => message.route)).toEqual(['/shipping', '/landing']);
    page.headcount.close();
    expect(page.window.history.pushState).toBe(pushState);
  });
});

describe('viewers', () => {
  test('say so, and have no route', () => {
    const page = openPage({ viewer: true, routeTracking: true, updateStrategy: 'ws' });
    page.headcount.connect();
    expect(page.stream.url.search).toBe('?version=v1&viewer=1');
  });

  test('that may not watch do not come back by themselves', async () => {
    const page = await watching({ viewer: true });
    await page.stream.says(unauthorized);
    expect(page.stream.closed).toBe(true);
    expect(snapshot(page)).toMatchObject({ ...nothing, authorized: false, status: 'closed' });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(page.streams).toHaveLength(1);
    page.headcount.reconnect();
    expect(page.streams).toHaveLength(2);
  });
});

describe('messages', () => {
  test('of the application, and of types unknown here, are handed on', async () => {
    const page = openPage();
    const heard: unknown[] = [];
    const off = page.headcount.onMessage((message) => heard.push(message));
    page.headcount.connect();
    await page.stream.connects();
    const { version, drain, tabs, to } = messages.server;
    const others = [version, drain, tabs, to, { type: 'cart', items: 3 }];
    for (const message of [...Object.values(messages.server), others[4]!]) await page.stream.says(message);
    expect(heard).toEqual(others);
    off();
    await page.stream.says(version);
    expect(heard).toHaveLength(5);
  });

  test('before connected are ignored', async () => {
    const page = openPage();
    const heard = vi.fn();
    page.headcount.onMessage(heard);
    page.headcount.subscribe(() => {});
    await page.stream.says(stats);
    await page.stream.says(messages.server.version);
    expect(heard).not.toHaveBeenCalled();
    expect(snapshot(page).authorized).toBe(null);
  });

  test('that repeat connected do not subscribe again', async () => {
    const page = await watching();
    await page.stream.connects();
    expect(types(page)).toEqual(['subscribe-stats']);
  });

  test.each([
    ...messages.malformed,
    '{"type":"stats"}',
    '{"type":"stats","total":{"valueOf":1},"versions":[],"connections":{"length":5}}',
    '{"type":"stats-delta","connections":null}',
    '{"type":"connected","keepaliveMs":"x","version":{}}',
    '{"type":"__proto__"}',
    '{"type":"toString","__proto__":{"polluted":true}}',
    undefined,
    new Blob(['x']),
  ])('that are hostile throw nothing and change nothing: %s', async (data) => {
    const page = await watching();
    await page.stream.says(stats);
    const { isStale, ...before } = snapshot(page);
    expect(() => page.stream.raw(data)).not.toThrow();
    expect(snapshot(page)).toMatchObject(before);
    expect(({} as any).polluted).toBeUndefined();
  });
});

test('a listener that throws is reported and keeps nobody else waiting', async () => {
  const page = openPage({ updateStrategy: 'ws' });
  const other = vi.fn();
  page.headcount.subscribe(() => {
    throw new Error('mine');
  });
  page.headcount.subscribe(other);
  await page.stream.connects();
  expect(other).toHaveBeenCalled();
  expect(types(page)).toEqual(['subscribe-stats']);
  expect(() => vi.runOnlyPendingTimers()).toThrow('mine');
});

test('knows the one created last', () => {
  const { headcount } = openPage();
  expect(latestHeadcount()).toBe(headcount);
});

test('is a store as Svelte has them: the value at once, then every other one, until unsubscribed', async () => {
  const page = openPage({ updateStrategy: 'ws' });
  const seen: Snapshot[] = [];
  const unsubscribe = page.headcount.subscribe((snapshot) => seen.push(snapshot));
  expect(seen[0]).toBe(page.headcount.getServerSnapshot());
  await page.stream.connects();
  await page.stream.says(messages.server.stats);
  expect(seen.at(-1)).toBe(page.headcount.getSnapshot());
  expect(new Set(seen).size).toBe(seen.length);
  unsubscribe();
  await page.stream.says({ ...messages.server.stats, total: 5 });
  expect(seen.at(-1)!.total).toBe(2);
});
