import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { messages } from './fixtures.js';
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

const status = (page: Page) => page.headcount.getSnapshot().status;

describe.each(['sse', 'ws'] as const)('%s', (updateStrategy) => {
  test('says how far it is', async () => {
    const page = openPage({ updateStrategy });
    expect(status(page)).toBe('idle');
    page.headcount.connect();
    expect(status(page)).toBe('connecting');
    page.stream.connects();
    expect(status(page)).toBe('open');
    page.stream.breaks();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'reconnecting', error: 'The connection was lost' });
    await delayMs(page);
    expect(status(page)).toBe('reconnecting');
    page.stream.connects();
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'open', error: null });
    page.headcount.close();
    expect(status(page)).toBe('closed');
  });

  test('closes what broke, because the browser would retry by itself with the route of long ago', () => {
    const page = openWith({ updateStrategy });
    page.stream.breaks();
    if (updateStrategy === 'sse') expect(page.stream.closed).toBe(true);
    expect(page.streams).toHaveLength(1);
  });

  test('tries for ever, with longer and longer delays up to the cap', async () => {
    const page = openWith({ updateStrategy });
    const delays = [];
    for (let attempt = 0; attempt < 40; attempt++) {
      page.stream.breaks();
      delays.push(await delayMs(page));
    }
    expect(delays.slice(0, 6)).toEqual([500, 1000, 2000, 4000, 8000, 15_000]);
    expect(new Set(delays.slice(5))).toEqual(new Set([15_000]));
  });

  test('backs off from a server that accepts and breaks at once', async () => {
    const page = openWith({ updateStrategy });
    const delays = [];
    for (let attempt = 0; attempt < 4; attempt++) {
      page.stream.connects();
      await vi.advanceTimersByTimeAsync(1000);
      page.stream.breaks();
      delays.push(await delayMs(page));
    }
    expect(delays).toEqual([500, 1000, 2000, 4000]);
  });

  test('starts the delays anew when a stream has lasted', async () => {
    const page = openWith({ updateStrategy });
    for (let attempt = 0; attempt < 5; attempt++) {
      page.stream.breaks();
      await delayMs(page);
    }
    page.stream.connects();
    await vi.advanceTimersByTimeAsync(30_000);
    page.stream.breaks();
    expect(await delayMs(page)).toBe(500);
  });

  test('obeys the delay of a drain, counted from its message', async () => {
    const page = openWith({ updateStrategy });
    page.stream.connects();
    page.stream.says(messages.server.drain);
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(1000);
    page.stream.breaks(1012);
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'reconnecting', error: null });
    expect(await delayMs(page)).toBe(2120);
  });

  test('leaves a draining server at the told time even if it never closes', async () => {
    const page = openWith({ updateStrategy, routeTracking: true });
    const drained = page.stream;
    drained.connects();
    drained.says(messages.server.drain);
    expect(await delayMs(page)).toBe(3120);
    expect(drained.closed).toBe(true);
    expect(status(page)).toBe('reconnecting');
    // Nothing may be sent on the new stream yet.
    page.navigate('/elsewhere');
    expect(page.stream.sent).toEqual([]);
    page.stream.connects();
    const told = updateStrategy === 'ws' ? page.stream.sent : page.posts.map(({ body }) => body);
    expect(told).toMatchObject([{ route: '/elsewhere' }]);
  });

  test('draws the delay itself when a drain names none that can be used', async () => {
    const page = openWith({ updateStrategy });
    page.stream.connects();
    page.stream.says({ type: 'drain', reconnectMs: 'soon' });
    expect(await delayMs(page)).toBe(2000);
  });

  test('takes a silent stream for dead', async () => {
    const page = openWith({ updateStrategy });
    page.stream.connects({ keepaliveMs: 4000 });
    for (let beat = 0; beat < 5; beat++) {
      await vi.advanceTimersByTimeAsync(9999);
      page.stream.says(messages.server.keepalive);
    }
    expect(status(page)).toBe('open');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(page.stream.closed).toBe(true);
    expect(page.headcount.getSnapshot()).toMatchObject({
      status: 'reconnecting',
      error: 'The connection was lost: nothing came',
    });
    expect(await delayMs(page)).toBeLessThan(1000);
  });

  test('takes any byte for a sign of life', async () => {
    const page = openWith({ updateStrategy });
    page.stream.connects({ keepaliveMs: 4000 });
    await vi.advanceTimersByTimeAsync(9999);
    page.stream.raw('not json');
    await vi.advanceTimersByTimeAsync(9999);
    expect(status(page)).toBe('open');
  });

  test('watches for silence only as the server promises', async () => {
    const page = openWith({ updateStrategy });
    page.stream.connects({ keepaliveMs: undefined });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(status(page)).toBe('open');
    expect(vi.getTimerCount()).toBe(0);
  });

  test('does not wait for ever for a stream to open', async () => {
    const page = openWith({ updateStrategy });
    await vi.advanceTimersByTimeAsync(updateStrategy === 'ws' ? 10_000 : 50_000);
    expect(page.stream.closed).toBe(true);
    await vi.advanceTimersByTimeAsync(1000);
    expect(page.streams).toHaveLength(2);
  });

  test('tries at once when the network is back', async () => {
    const page = openWith({ updateStrategy });
    for (let attempt = 0; attempt < 5; attempt++) {
      page.stream.breaks();
      await delayMs(page);
    }
    page.stream.breaks();
    await settled();
    page.setOnline(true);
    expect(page.streams).toHaveLength(7);
    page.stream.breaks();
    expect(await delayMs(page)).toBe(500);
  });

  test('tries at once when a hidden page is looked at while it waits', async () => {
    const page = openWith({ updateStrategy });
    page.stream.breaks();
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
    page.stream.connects();
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
    page.stream.connects();
    page.navigate('/shopping?x=1');
    page.stream.breaks();
    await delayMs(page);
    expect(page.stream.url.searchParams.get('route')).toBe('/shopping');
    expect(page.stream.url.searchParams.get('version')).toBe('v1');
    page.stream.connects();
    expect(page.stream.sent).toEqual([]);
  });

  test('hears nothing more of a stream that was replaced', async () => {
    const page = openWith({ updateStrategy });
    page.headcount.subscribe(() => {});
    const old = page.stream;
    old.connects();
    page.headcount.reconnect();
    page.stream.connects();
    page.stream.says({ ...messages.server.stats, total: 5 });
    const snapshot = page.headcount.getSnapshot();
    old.says(messages.server.stats);
    old.says(messages.server.drain);
    old.breaks(1008);
    expect(page.headcount.getSnapshot()).toBe(snapshot);
    await vi.advanceTimersByTimeAsync(5000);
    expect(page.streams).toHaveLength(2);
  });

  test('leaves no timer and no listener behind when closed', async () => {
    for (const end of ['breaks', 'connects', 'drains'] as const) {
      const page = openWith({ updateStrategy });
      const { window } = page;
      if (end === 'breaks') page.stream.breaks();
      else page.stream.connects();
      if (end === 'drains') page.stream.says(messages.server.drain);
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
    page.stream.connects();
    expect(status(page)).toBe('closed');
    await vi.advanceTimersByTimeAsync(60_000);
    expect(page.streams).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);

    // Heard already of `connecting`.
    page.headcount.connect();
    expect(page.streams).toHaveLength(1);

    act = () => {};
    page.headcount.connect();
    page.stream.connects();
    act = () => {
      act = () => {};
      page.headcount.reconnect();
    };
    page.stream.breaks();
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

test('stops for good when it is denied', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  page.headcount.subscribe(() => {});
  page.stream.connects();
  page.stream.says(messages.server.stats);
  page.stream.breaks(1008, 'origin not allowed');
  expect(page.headcount.getSnapshot()).toMatchObject({
    status: 'closed',
    error: 'The connection was denied: origin not allowed',
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
  page.stream.connects();
  page.stream.breaks(1013);
  expect(await delayMs(page)).toBe(4000);
  page.stream.breaks(1013);
  expect(await delayMs(page)).toBe(8000);
});

test('spreads a crowd whose server restarts (1012), and is back soon after it', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  page.stream.connects();
  page.stream.breaks(1012);
  expect(await delayMs(page)).toBe(2000);
  for (const delay of [1000, 2000, 4000]) {
    page.stream.breaks();
    expect(await delayMs(page)).toBe(delay);
  }
});

test('does not fall into step with a server that sends it away again and again', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  for (const delay of [2000, 2000, 2000, 4000, 8000]) {
    page.stream.connects();
    page.stream.breaks(1012);
    expect(await delayMs(page)).toBe(delay);
  }
});

test.each([4400, 4408, 1000, 1006])('comes back after %d with the usual back-off', async (code) => {
  const page = openWith({ updateStrategy: 'ws' });
  page.stream.connects();
  page.stream.breaks(code);
  expect(await delayMs(page)).toBe(500);
});

describe('auto', () => {
  const kinds = (page: Page) => page.streams.map(({ kind }) => kind);

  test('uses SSE once two WebSockets in a row did not open', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (let attempt = 0; attempt < 3; attempt++) {
      page.stream.breaks();
      await delayMs(page);
    }
    expect(kinds(page)).toEqual(['ws', 'ws', 'sse', 'sse']);
    page.stream.connects({ updateStrategy: 'ws' });
    page.stream.breaks();
    await delayMs(page);
    expect(kinds(page).at(-1)).toBe('sse');
  });

  test('counts only failures in a row', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (const opens of [false, true, false, true]) {
      if (opens) page.stream.connects();
      page.stream.breaks();
      await delayMs(page);
    }
    expect(kinds(page)).toEqual(Array(5).fill('ws'));
  });

  test('learns nothing about WebSockets from a server that is overloaded or a device that is offline', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (let attempt = 0; attempt < 3; attempt++) {
      page.stream.breaks(1013);
      await delayMs(page);
    }
    page.setOnline(false);
    for (let attempt = 0; attempt < 3; attempt++) {
      page.stream.breaks();
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
      error: 'The connection was lost: Error: blocked',
    });
    await vi.advanceTimersByTimeAsync(2000);
    expect(kinds(page)).toEqual(['sse']);
  });

  test('obeys what the server prefers at the next stream', async () => {
    const page = openWith({ updateStrategy: 'auto' });
    for (const updateStrategy of ['sse', 'ws', 'auto', 5]) {
      page.stream.connects({ updateStrategy });
      page.headcount.reconnect();
    }
    expect(kinds(page)).toEqual(['ws', 'sse', 'ws', 'ws', 'ws']);
  });
});

test('does not change a strategy that the page has chosen', () => {
  const page = openWith({ updateStrategy: 'ws' });
  page.stream.connects({ updateStrategy: 'sse' });
  page.headcount.reconnect();
  expect(page.stream.kind).toBe('ws');
});
