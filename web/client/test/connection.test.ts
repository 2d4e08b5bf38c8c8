import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { messages, reconnect } from './fixtures.js';
import { openPage, type Page, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
});
afterEach(() => {
  vi.useRealTimers();
});

function openWith(options: Parameters<typeof openPage>[0] = {}) {
  const page = openPage(options);
  page.headcount.connect();
  return page;
}

/** How long the page waits before its next stream. */
async function delayMs(page: Page) {
  const before = page.streams.length;
  for (let ms = 0; ms <= 120_000; ms += 10) {
    if (page.streams.length > before) return ms;
    await vi.advanceTimersByTimeAsync(10);
  }
  return Infinity;
}

/** Gives the page this storage. */
const storing = (localStorage: unknown) => (window: any) => void (window.localStorage = localStorage);

const status = (page: Page) => page.headcount.getSnapshot().status;

describe.each(['sse', 'ws'] as const)('%s', (updateStrategy) => {
  test('says how far it is', async () => {
    const page = openPage({ updateStrategy });
    expect(status(page)).toBe('idle');
    page.headcount.connect();
    expect(status(page)).toBe('connecting');
    await page.stream.connects();
    expect(status(page)).toBe('open');
    await page.stream.breaks();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'reconnecting', error: 'The connection was lost.' });
    await delayMs(page);
    expect(status(page)).toBe('reconnecting');
    await page.stream.connects();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
    page.headcount.close();
    expect(status(page)).toBe('closed');
  });

  test('closes what broke, because the browser would retry by itself with the route of long ago', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.breaks();
    if (updateStrategy === 'sse') expect(page.stream.closed).toBe(true);
    expect(page.streams).toHaveLength(1);
  });

  test('tries for ever, with longer and longer delays up to the cap', async () => {
    const page = openWith({ updateStrategy });
    const delays = [];
    for (let attempt = 0; attempt < 40; attempt++) {
      await page.stream.breaks();
      delays.push(await delayMs(page));
    }
    expect(delays.slice(0, 6)).toEqual([500, 1000, 2000, 4000, 8000, 15_000]);
    expect(new Set(delays.slice(5))).toEqual(new Set([15_000]));
  });

  test('backs off from a server that accepts and breaks at once', async () => {
    const page = openWith({ updateStrategy });
    const delays = [];
    for (let attempt = 0; attempt < 4; attempt++) {
      await page.stream.connects();
      await vi.advanceTimersByTimeAsync(1000);
      await page.stream.breaks();
      delays.push(await delayMs(page));
    }
    expect(delays).toEqual([500, 1000, 2000, 4000]);
  });

  test('is back soon each time that the page is not left after all', async () => {
    const page = openWith({ updateStrategy });
    for (let click = 0; click < 5; click++) {
      await page.stream.connects();
      await vi.advanceTimersByTimeAsync(1000);
      page.window.dispatchEvent(new Event('beforeunload'));
      await page.stream.breaks();
      expect(await delayMs(page)).toBe(500);
    }
    // Also what ends a stream before it has opened.
    page.window.dispatchEvent(new Event('beforeunload'));
    await page.stream.breaks();
    expect(await delayMs(page)).toBe(500);
  });

  test('gives up a stream that is opening when the page is not left after all, because it may have ended without an event', async () => {
    const page = openWith({ updateStrategy });
    await vi.advanceTimersByTimeAsync(1000);
    page.window.dispatchEvent(new Event('beforeunload'));
    await vi.advanceTimersByTimeAsync(790);
    expect(page.streams).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(510);
    expect(page.streams).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1300);
    expect(page.streams).toHaveLength(3);
    // Later, a slow network is as likely.
    await vi.advanceTimersByTimeAsync(2700);
    const before = page.streams.length;
    await vi.advanceTimersByTimeAsync(8000);
    expect(page.streams).toHaveLength(before);
  });

  test('a page that is not left while it waits goes on waiting', async () => {
    const page = openWith({ updateStrategy });
    for (let attempt = 0; attempt < 5; attempt++) {
      await page.stream.breaks();
      await delayMs(page);
    }
    await page.stream.breaks();
    const before = page.streams.length;
    page.window.dispatchEvent(new Event('beforeunload'));
    await vi.advanceTimersByTimeAsync(14_000);
    expect(page.streams).toHaveLength(before);
    await vi.advanceTimersByTimeAsync(1100);
    expect(page.streams).toHaveLength(before + 1);
  });

  test('a script that leaves again and again gets ten streams soon, and then one in six seconds', async () => {
    const page = openWith({ updateStrategy });
    const begin = Date.now();
    const delays = [];
    while (Date.now() < begin + 60_000) {
      page.window.dispatchEvent(new Event('beforeunload'));
      await page.stream.breaks();
      delays.push(await delayMs(page));
    }
    expect(delays.slice(0, 14)).toEqual([...Array(10).fill(500), 1000, 2000, 4000, 8000]);
    expect(delays.filter((ms) => ms === 500).length).toBeLessThanOrEqual(20);
  });

  test('what ends when the page is not left after all is no regular limit', async () => {
    const page = openWith({ updateStrategy });
    for (let click = 0; click < 6; click++) {
      await page.stream.connects();
      await vi.advanceTimersByTimeAsync(10_000);
      page.window.dispatchEvent(new Event('beforeunload'));
      await page.stream.breaks();
      await delayMs(page);
    }
    expect(page.stream.url.searchParams.has('cutAfter')).toBe(false);
  });

  test('starts the delays anew when a stream has lasted', async () => {
    const page = openWith({ updateStrategy });
    for (let attempt = 0; attempt < 5; attempt++) {
      await page.stream.breaks();
      await delayMs(page);
    }
    await page.stream.connects();
    await vi.advanceTimersByTimeAsync(2000);
    await page.stream.breaks();
    expect(await delayMs(page)).toBe(500);
  });

  test('obeys the delay of a drain, counted from its message', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await page.stream.says(messages.server.drain);
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(1000);
    await page.stream.breaks(1012);
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'reconnecting', error: null });
    expect(await delayMs(page)).toBe(2120);
  });

  test('leaves a draining server at the told time even if it never closes', async () => {
    const page = openWith({ updateStrategy, routeTracking: true });
    const drained = page.stream;
    await drained.connects();
    await drained.says(messages.server.drain);
    expect(await delayMs(page)).toBe(3120);
    expect(drained.closed).toBe(true);
    expect(status(page)).toBe('reconnecting');
    // Nothing may be sent on the new stream yet.
    page.navigate('/elsewhere');
    expect(page.stream.sent).toEqual([]);
    await page.stream.connects();
    const told = updateStrategy === 'ws' ? page.stream.sent : page.posts.map(({ body }) => body);
    expect(told).toMatchObject([{ route: '/elsewhere' }]);
  });

  test('draws the delay itself when a drain names none that can be used', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await page.stream.says({ type: 'drain', reconnectMs: 'soon' });
    expect(await delayMs(page)).toBe(2000);
  });

  test('takes a silent stream for dead', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects({ keepaliveMs: 4000 });
    for (let beat = 0; beat < 5; beat++) {
      await vi.advanceTimersByTimeAsync(9999);
      await page.stream.says(messages.server.keepalive);
    }
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(page.stream.closed).toBe(true);
    expect(page.headcount.getSnapshot()).toMatchObject({
      status: 'reconnecting',
      error: 'The connection was lost.',
    });
    expect(await delayMs(page)).toBeLessThan(1000);
  });

  test('takes any byte for a sign of life', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects({ keepaliveMs: 4000 });
    await vi.advanceTimersByTimeAsync(9999);
    await page.stream.raw('not json');
    await vi.advanceTimersByTimeAsync(9999);
    expect(status(page)).toBe('open');
  });

  test('watches for silence only as the server promises', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects({ keepaliveMs: undefined });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(status(page)).toBe('open');
    expect(vi.getTimerCount()).toBe(0);
  });

  test('does not wait for ever for a stream to open', async () => {
    const page = openWith({ updateStrategy });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(page.stream.closed).toBe(true);
    await vi.advanceTimersByTimeAsync(1000);
    expect(page.streams).toHaveLength(2);
  });

  test('tries within a second when the network is back', async () => {
    const page = openWith({ updateStrategy });
    for (let attempt = 0; attempt < 5; attempt++) {
      await page.stream.breaks();
      await delayMs(page);
    }
    await page.stream.breaks();
    await settled();
    page.setOnline(true);
    expect(page.streams).toHaveLength(6);
    expect(await delayMs(page)).toBe(500);
    await page.stream.breaks();
    expect(await delayMs(page)).toBe(500);
  });

  test('replaces an open stream within a second when the network is back, and uses it until then', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await vi.advanceTimersByTimeAsync(1);
    page.setOnline(true);
    expect(page.streams).toHaveLength(1);
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(499);
    expect(page.streams).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(page.streams).toHaveLength(2);
  });

  test.each(
    reconnect.wakeEvents.flatMap((event) =>
      // An event stream has no close codes.
      reconnect.holds.filter(({ code }) => !code || updateStrategy === 'ws').map((hold) => ({ event, ...hold })),
    ),
  )('$event ends no delay of $name', async ({ event, code, reconnectMs, leastMs }) => {
    vi.spyOn(Math, 'random').mockReturnValue(1);
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await vi.advanceTimersByTimeAsync(15_000);
    if (reconnectMs !== null) await page.stream.says({ type: 'drain', reconnectMs });
    await page.stream.breaks(code ?? undefined);
    for (let waitedMs = 0; waitedMs < leastMs - 10; waitedMs += (leastMs - 10) / 5) {
      const target = event === 'visibilitychange' ? page.window.document : page.window;
      target.dispatchEvent(new Event(event));
      await vi.advanceTimersByTimeAsync((leastMs - 10) / 5);
      expect(page.streams).toHaveLength(1);
    }
    await vi.advanceTimersByTimeAsync(1010);
    expect(page.streams).toHaveLength(2);
  });

  test('an end right after the network is back is not answered earlier than any other', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await vi.advanceTimersByTimeAsync(1);
    page.setOnline(true);
    await vi.advanceTimersByTimeAsync(100);
    await page.stream.breaks(updateStrategy === 'ws' ? 1013 : undefined);
    expect(await delayMs(page)).toBe(updateStrategy === 'ws' ? 4000 : 500);
  });

  test('tries at once when a hidden page is looked at while it waits', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.breaks();
    page.setHidden(true);
    expect(page.streams).toHaveLength(1);
    page.setHidden(false);
    expect(page.streams).toHaveLength(2);
    page.setHidden(false);
    page.setOnline(true);
    expect(page.streams).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(9000);
    expect(page.streams).toHaveLength(2);
  });

  test('closes when the page is left and opens with the present route when it comes back', async () => {
    const page = openWith({ updateStrategy, routeTracking: true });
    await page.stream.connects();
    page.window.dispatchEvent(new Event('pagehide'));
    expect(page.stream.closed).toBe(true);
    page.setHidden(true);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(page.streams).toHaveLength(1);
    page.window.location.href = 'https://shop.example/back';
    page.window.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
    expect(page.streams).toHaveLength(2);
    expect(page.stream.url.searchParams.get('route')).toBe('/back');
  });

  test('opens nothing for a page that has been left, whoever asks', () => {
    const page = openWith({ updateStrategy });
    page.window.dispatchEvent(new Event('pagehide'));
    page.headcount.reconnect();
    page.setOnline(true);
    expect(page.streams).toHaveLength(1);
    page.window.dispatchEvent(new Event('pageshow'));
    expect(page.streams).toHaveLength(2);
  });

  test('opens with the route and version of now, not of the landing page', async () => {
    const page = openWith({ updateStrategy, routeTracking: true });
    await page.stream.connects();
    page.navigate('/shopping?x=1');
    await page.stream.breaks();
    await delayMs(page);
    expect(page.stream.url.searchParams.get('route')).toBe('/shopping');
    expect(page.stream.url.searchParams.get('version')).toBe('v1');
    await page.stream.connects();
    expect(page.stream.sent).toEqual([]);
  });

  test('hears nothing more of a stream that was replaced', async () => {
    const page = openWith({ updateStrategy });
    page.headcount.subscribe(() => {});
    const old = page.stream;
    await old.connects();
    page.headcount.reconnect();
    await page.stream.connects();
    await page.stream.says({ ...messages.server.stats, total: 5 });
    const snapshot = page.headcount.getSnapshot();
    await old.says(messages.server.stats);
    await old.says(messages.server.drain);
    await old.breaks(1008);
    expect(page.headcount.getSnapshot()).toBe(snapshot);
    await vi.advanceTimersByTimeAsync(5000);
    expect(page.streams).toHaveLength(2);
  });

  test('leaves no timer and no listener behind when closed', async () => {
    for (const end of ['breaks', 'connects', 'drains'] as const) {
      const page = openWith({ updateStrategy });
      const { window } = page;
      if (end === 'breaks') await page.stream.breaks();
      else await page.stream.connects();
      if (end === 'drains') await page.stream.says(messages.server.drain);
      page.headcount.close();
      expect(page.stream.closed || end === 'breaks').toBe(true);
      expect(vi.getTimerCount()).toBe(0);
      window.dispatchEvent(new Event('online'));
      window.dispatchEvent(new Event('pageshow'));
      page.setHidden(false);
      expect(page.streams).toHaveLength(1);
    }
  });

  test('may be closed or reopened by whoever hears of a change', async () => {
    const page = openPage({ updateStrategy });
    let act = () => page.headcount.close();
    page.headcount.connect();
    page.headcount.subscribe(() => act());
    await page.stream.connects();
    expect(status(page)).toBe('closed');
    await vi.advanceTimersByTimeAsync(60_000);
    expect(page.streams).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);

    // Heard already of `connecting`.
    page.headcount.connect();
    expect(page.streams).toHaveLength(1);

    act = () => {};
    page.headcount.connect();
    await page.stream.connects();
    act = () => {
      act = () => {};
      page.headcount.reconnect();
    };
    await page.stream.breaks();
    expect(page.streams).toHaveLength(3);
    await vi.advanceTimersByTimeAsync(5000);
    expect(page.streams.filter(({ closed }) => !closed)).toContain(page.stream);
    expect(page.streams).toHaveLength(3);
  });
});

test('does not count a page that is only being prerendered', () => {
  const page = openPage();
  page.window.document.prerendering = true;
  page.headcount.connect();
  expect(page.streams).toHaveLength(0);
  page.window.document.prerendering = false;
  page.window.document.dispatchEvent(new Event('prerenderingchange'));
  expect(page.streams).toHaveLength(1);
});

test.each([1008, 4008])('stops for good when it is denied by %i', async (code) => {
  const page = openWith({ updateStrategy: 'ws' });
  page.headcount.subscribe(() => {});
  await page.stream.connects();
  await page.stream.says(messages.server.stats);
  await page.stream.breaks(code, 'origin not allowed');
  expect(page.headcount.getSnapshot()).toMatchObject({
    status: 'closed',
    error: 'origin not allowed',
    authorized: false,
    total: 0,
    isStale: false,
  });
  page.setOnline(true);
  page.setHidden(false);
  await vi.advanceTimersByTimeAsync(600_000);
  expect(page.streams).toHaveLength(1);
  page.headcount.reconnect();
  expect(page.streams).toHaveLength(2);
});

test('spreads a crowd that was sent away by 1013, and further each time', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects();
  await page.stream.breaks(1013);
  expect(await delayMs(page)).toBe(4000);
  await page.stream.breaks(1013);
  expect(await delayMs(page)).toBe(8000);
});

test('spreads a crowd whose server restarts (1012), and is back soon after it', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects();
  await page.stream.breaks(1012);
  expect(await delayMs(page)).toBe(2000);
  for (const delay of [1000, 2000, 4000]) {
    await page.stream.breaks();
    expect(await delayMs(page)).toBe(delay);
  }
});

test('does not fall into step with a server that sends it away again and again', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  for (const delay of [2000, 2000, 2000, 4000, 8000]) {
    await page.stream.connects();
    await page.stream.breaks(1012);
    expect(await delayMs(page)).toBe(delay);
  }
});

test.each([4400, 4408, 1000, 1006])('comes back after %d with the usual back-off', async (code) => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects();
  await page.stream.breaks(code);
  expect(await delayMs(page)).toBe(500);
});

describe('auto', () => {
  const kinds = (page: Page) => page.streams.map(({ kind }) => kind);

  /** A page on which each stream delivers or fails, as the steps say; the kinds of streams that it opened. */
  async function walk(page: Page, steps: { delivers: boolean }[]) {
    page.headcount.connect();
    for (const { delivers } of steps) {
      if (delivers) {
        await page.stream.connects();
        await vi.advanceTimersByTimeAsync(10_000);
      }
      await page.stream.breaks();
      await delayMs(page);
    }
    return kinds(page).slice(0, steps.length);
  }

  const prefers = (updateStrategy: string) => ({ ...messages.server.connected, updateStrategy });

  test.each(reconnect.ways)('$name', async ({ prefers: preferred, steps }) => {
    const page = openPage({ updateStrategy: 'auto' });
    // The server names what it prefers; by the time of the test the page knows.
    page.headcount.connect();
    await page.stream.says(prefers(preferred));
    page.headcount.reconnect();
    const before = page.streams.length - 1;
    for (const { server, opens, delivers, atOnce } of steps) {
      if (opens || delivers) await page.stream.opens();
      if (delivers) {
        expect(server).toBe(true);
        await page.stream.says(prefers(preferred));
        await vi.advanceTimersByTimeAsync(10_000);
      }
      await page.stream.breaks();
      const ms = await delayMs(page);
      if (!delivers) expect(ms === reconnect.constants.otherWayMs).toBe(!!atOnce);
    }
    expect(kinds(page).slice(before, before + steps.length)).toEqual(steps.map(({ way }) => way));
  });

  test('the next page of the browser begins with what got through, for a day', async () => {
    const localStorage: Record<string, string> = {};
    const first = openPage({ updateStrategy: 'auto' }, undefined, storing(localStorage));
    await walk(first, [{ delivers: false }, { delivers: true }, { delivers: false }, { delivers: true }]);
    first.headcount.close();
    const second = openPage({ updateStrategy: 'auto' }, undefined, storing(localStorage));
    second.headcount.connect();
    expect(kinds(second)).toEqual(['sse']);
    vi.setSystemTime(Date.now() + reconnect.constants.wayMs);
    const third = openPage({ updateStrategy: 'auto' }, undefined, storing(localStorage));
    third.headcount.connect();
    expect(kinds(third)).toEqual(['ws']);
  });

  test.each([
    [
      'is forbidden',
      Object.defineProperty({}, 'headcount', {
        get: () => {
          throw new Error('forbidden');
        },
      }),
    ],
    ['holds nonsense', { headcount: `often ${Date.now()}` }],
    [
      'is full',
      new Proxy(
        {},
        {
          set: () => {
            throw new Error('full');
          },
        },
      ),
    ],
  ])('a storage that %s changes nothing', async (_, localStorage) => {
    const page = openPage({ updateStrategy: 'auto' }, undefined, storing(localStorage));
    expect(await walk(page, [{ delivers: false }, { delivers: true }, { delivers: true }])).toEqual([
      'ws',
      'sse',
      'ws',
    ]);
  });

  test('a WebSocket that opens and does not deliver is given up after 5 s', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    await vi.advanceTimersByTimeAsync(3000);
    await page.stream.opens();
    await vi.advanceTimersByTimeAsync(4999);
    expect(page.stream.closed).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(page.streams[0]!.closed).toBe(true);
    await delayMs(page);
    expect(kinds(page)).toEqual(['ws', 'sse']);
  });

  test('an event stream that is held back is given up for a WebSocket, also when the server prefers SSE', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    await page.stream.says(prefers('sse'));
    page.headcount.reconnect();
    expect(kinds(page)).toEqual(['ws', 'sse']);
    await page.stream.opens();
    await vi.advanceTimersByTimeAsync(5000);
    await delayMs(page);
    expect(kinds(page)).toEqual(['ws', 'sse', 'ws']);
    await page.stream.connects({ updateStrategy: 'sse' });
    expect(status(page)).toBe('open');
  });

  test('where nothing delivers, an event stream is given more time each time', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    const times = [];
    for (let round = 0; round < 4; round++) {
      await page.stream.breaks();
      await delayMs(page);
      const { stream } = page;
      let ms = 0;
      for (; !stream.closed; ms += 1000) await vi.advanceTimersByTimeAsync(1000);
      times.push(ms);
      await delayMs(page);
    }
    expect(times).toEqual([20_000, 50_000, 50_000, 50_000]);
  });

  test('a page with a service worker begins with a WebSocket, because a worker may keep an event stream open', async () => {
    const page = openPage({ updateStrategy: 'auto' });
    page.window.navigator.serviceWorker = { controller: {} };
    page.headcount.connect();
    await page.stream.says(prefers('sse'));
    page.headcount.reconnect();
    expect(kinds(page)).toEqual(['ws', 'ws']);
  });

  test('learns nothing about WebSockets from a server that is overloaded or a device that is offline', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (let attempt = 0; attempt < 3; attempt++) {
      await page.stream.breaks(1013);
      await delayMs(page);
    }
    page.setOnline(false);
    for (let attempt = 0; attempt < 3; attempt++) {
      await page.stream.breaks();
      await delayMs(page);
    }
    expect(new Set(kinds(page))).toEqual(new Set(['ws']));
  });

  test('does without WebSocket where there is none', async () => {
    const blocked: any = function () {
      throw new Error('blocked');
    };
    const page = openWith({ updateStrategy: 'auto', WebSocket: blocked });
    expect(page.headcount.getSnapshot()).toMatchObject({
      status: 'reconnecting',
      error: 'Error: blocked',
    });
    await vi.advanceTimersByTimeAsync(2000);
    expect(kinds(page)).toEqual(['sse']);
  });

  test('does without WebSocket where the page may not open one: Chromium says so by `error` without `close`', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    page.stream.onclose = null;
    await page.stream.breaks();
    await vi.advanceTimersByTimeAsync(200);
    expect(kinds(page)).toEqual(['ws', 'sse']);
    await page.stream.connects();
    expect(status(page)).toBe('open');
  });

  test('an `error` before `close` does not end the next stream', async () => {
    const page = openWith({ updateStrategy: 'ws' });
    await page.stream.connects();
    (page.stream.onerror as any)({});
    await page.stream.breaks(1011);
    await delayMs(page);
    await page.stream.connects();
    expect(page.streams.length).toBe(2);
    expect(status(page)).toBe('open');
  });

  test('obeys what the server prefers at the next stream', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (const updateStrategy of ['sse', 'ws', 'auto', 5]) {
      await page.stream.connects({ updateStrategy });
      page.headcount.reconnect();
    }
    expect(kinds(page)).toEqual(['ws', 'sse', 'ws', 'ws', 'ws']);
  });
});

test('does not change a strategy that the page has chosen', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects({ updateStrategy: 'sse' });
  page.headcount.reconnect();
  expect(page.stream.kind).toBe('ws');
});

describe.each(['sse', 'ws'] as const)('a proxy that ends every %s stream after 10 s', (updateStrategy) => {
  /** A page that has met the limit three times, and has its fourth stream. */
  async function limited(options: Parameters<typeof openPage>[0] = {}) {
    const page = openWith({ updateStrategy, routeTracking: true, ...options });
    for (const random of [0.3, 0.5, 0.8]) {
      vi.spyOn(Math, 'random').mockReturnValue(random);
      await page.stream.connects({ connectionId: `${page.streams.length}` });
      await vi.advanceTimersByTimeAsync(10_000);
      await page.stream.breaks();
      expect(page.stream.url.searchParams.has('cutAfter')).toBe(false);
      await delayMs(page);
    }
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    await page.stream.connects({ connectionId: '4' });
    return page;
  }

  test('is reported to the server, and no stream lives until it again', async () => {
    const page = await limited();
    const seen: string[] = [];
    page.headcount.subscribe(({ status }) => seen.push(status));
    const old = page.stream;
    expect(old.url.searchParams.get('cutAfter')).toBe('10000');
    await vi.advanceTimersByTimeAsync(8499);
    expect(page.streams).toHaveLength(4);
    await vi.advanceTimersByTimeAsync(1);
    expect(page.streams).toHaveLength(5);
    expect(page.stream.url.searchParams.get('replaces')).toBe('4');
    expect(page.stream.url.searchParams.get('cutAfter')).toBe('10000');
    expect(old.closed).toBe(false);
    await page.stream.connects({ connectionId: '5' });
    expect(old.closed).toBe(true);
    await old.breaks();
    expect(new Set(seen)).toEqual(new Set(['open']));
    await vi.advanceTimersByTimeAsync(8500);
    expect(page.stream.url.searchParams.get('replaces')).toBe('5');
  });

  test('the old stream is used until the new one delivers, and nothing is lost in between', async () => {
    const page = await limited();
    page.headcount.subscribe(() => {});
    await vi.advanceTimersByTimeAsync(8500);
    const [old, next] = page.streams.slice(-2) as [typeof page.stream, typeof page.stream];
    await next.opens();
    await old.says({ ...messages.server.stats, total: 7 });
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', total: 7, isStale: false });
    page.navigate('/while');
    await settled();
    const sent = () => (updateStrategy === 'ws' ? old.sent : page.posts.map(({ body }) => body));
    expect(sent().at(-1)).toMatchObject({ route: '/while' });
    // The server ends the old stream as replaced before the page hears from the new one.
    await old.breaks(1000);
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null, isStale: false });
    await next.connects({ connectionId: '5' });
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', total: 7, isStale: false, authorized: true });
    const told = updateStrategy === 'ws' ? next.sent : page.posts.map(({ body }) => body);
    expect(told.filter((message: any) => message.route === '/while').length).toBeGreaterThan(0);
    expect(told.at(-1)).toMatchObject({ deltas: true });
    expect(page.streams).toHaveLength(5);
  });

  test('when the new stream fails, the old one stays to its end', async () => {
    const page = await limited();
    const old = page.stream;
    await vi.advanceTimersByTimeAsync(8500);
    await page.stream.breaks();
    expect(status(page)).toBe('open');
    expect(old.closed).toBe(false);
    await vi.advanceTimersByTimeAsync(1500);
    expect(page.streams).toHaveLength(5);
    await old.breaks();
    expect(status(page)).toBe('reconnecting');
    expect(await delayMs(page)).toBe(500);
  });

  test('when the new stream hangs and the old one ends meanwhile, a third is opened', async () => {
    const page = await limited();
    const old = page.stream;
    await vi.advanceTimersByTimeAsync(8500);
    const hanging = page.stream;
    await old.breaks();
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(hanging.closed).toBe(true);
    expect(status(page)).toBe('reconnecting');
    expect(await delayMs(page)).toBe(500);
    // The life of the old stream is known nevertheless.
    expect(page.stream.url.searchParams.get('cutAfter')).toBe('10000');
  });

  test('a drain is obeyed instead', async () => {
    const page = await limited();
    await vi.advanceTimersByTimeAsync(8000);
    await page.stream.says({ type: 'drain', reconnectMs: 3000 });
    await vi.advanceTimersByTimeAsync(2999);
    expect(page.streams).toHaveLength(4);
    await vi.advanceTimersByTimeAsync(1);
    expect(page.streams).toHaveLength(5);
  });

  test('a page that closes or is left while it renews has no stream left', async () => {
    for (const leave of ['close', 'pagehide']) {
      const page = await limited();
      await vi.advanceTimersByTimeAsync(8500);
      if (leave === 'close') page.headcount.close();
      else page.window.dispatchEvent(new Event('pagehide'));
      expect(page.streams.filter(({ closed }) => !closed).slice(-2)).not.toContain(page.stream);
      expect(page.stream.closed).toBe(true);
      expect(page.streams.at(-2)!.closed).toBe(true);
      expect(vi.getTimerCount()).toBe(0);
      await vi.advanceTimersByTimeAsync(60_000);
      expect(page.streams).toHaveLength(5);
      page.headcount.close();
    }
  });

  test('is forgotten when a stream that runs on outlives it', async () => {
    const page = await limited();
    for (let renewal = 0; renewal < reconnect.constants.renewals; renewal++) {
      await vi.advanceTimersByTimeAsync(8500);
      await page.stream.connects({ connectionId: `renewed ${renewal}` });
    }
    const before = page.streams.length;
    for (let beat = 0; beat < 4; beat++) {
      await vi.advanceTimersByTimeAsync(10_000);
      await page.stream.says(messages.server.keepalive);
    }
    expect(page.streams).toHaveLength(before);
    await page.stream.breaks();
    await delayMs(page);
    expect(page.stream.url.searchParams.has('cutAfter')).toBe(false);
  });
});

test('what ends in silence is no limit', async () => {
  const page = openWith();
  for (const random of [0.3, 0.5, 0.8, 0.2]) {
    vi.spyOn(Math, 'random').mockReturnValue(random);
    await page.stream.connects({ keepaliveMs: 4000 });
    await vi.advanceTimersByTimeAsync(10_000);
    await delayMs(page);
  }
  expect(page.stream.url.searchParams.has('cutAfter')).toBe(false);
});

test('once a WebSocket has failed twice, the page asks whether the server is there before it opens one', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  const open = () => page.streams.filter(({ question }) => !question).length;
  await page.stream.connects();
  await vi.advanceTimersByTimeAsync(10_000);
  await page.stream.breaks();
  await vi.advanceTimersByTimeAsync(1000);
  await page.stream.breaks();
  const before = open();
  for (let attempt = 0; attempt < 5; attempt++) {
    await delayMs(page);
    expect(page.stream.question!.url.pathname).toBe('/__skew/ws');
    await (attempt % 2 ? page.stream.question!.answers(502) : page.stream.breaks());
  }
  expect(open()).toBe(before);
  await delayMs(page);
  // What answers need not be what WebSockets are passed on to.
  await page.stream.question!.answers(404);
  expect(open()).toBe(before + 1);
  await page.stream.connects();
  expect(status(page)).toBe('open');
});

test('a page that is closed while it asks opens no WebSocket', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects();
  await page.stream.breaks();
  await delayMs(page);
  await page.stream.breaks();
  await delayMs(page);
  const { question } = page.stream;
  page.headcount.close();
  await question!.answers(426);
  expect(page.stream.question).toBe(question);
});

describe.each(['sse', 'ws'] as const)('farewell over %s', (updateStrategy) => {
  const bye = ['/__skew/bye', JSON.stringify({ connectionId: messages.server.connected.connectionId })];

  test.each(['pagehide', 'close'])('a page says goodbye at %s, and what is given up does not', async (how) => {
    const page = openWith({ updateStrategy });
    const leave = () => (how === 'close' ? page.headcount.close() : page.window.dispatchEvent(new Event('pagehide')));
    await page.stream.connects();
    const first = page.stream;
    page.headcount.reconnect();
    await page.stream.connects();
    expect([first.closed, first.code, page.beacons]).toEqual([true, undefined, []]);
    leave();
    expect(page.beacons).toEqual([bye]);
    if (updateStrategy === 'ws') expect(page.stream.code).toBe(1000);
  });

  test('a page says goodbye while it waits for its next stream', async () => {
    const page = openWith({ updateStrategy });
    await page.stream.connects();
    await page.stream.breaks();
    page.window.dispatchEvent(new Event('pagehide'));
    expect(page.beacons).toEqual([bye]);
  });

  test('a page that never had a stream has nothing to take back', async () => {
    const page = openWith({ updateStrategy });
    page.window.dispatchEvent(new Event('pagehide'));
    expect(page.beacons).toEqual([]);
  });

  test('a browser without beacons is no error', async () => {
    const page = openPage({ updateStrategy }, undefined, (window) => delete window.navigator.sendBeacon);
    page.headcount.connect();
    await page.stream.connects();
    page.headcount.close();
    expect(page.stream.closed).toBe(true);
  });
});
