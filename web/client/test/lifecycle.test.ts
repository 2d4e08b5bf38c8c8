import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { messages } from './fixtures.js';
import { openPage, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
});
afterEach(() => {
  vi.useRealTimers();
});

const { connectionId, keepaliveMs } = messages.server.connected as unknown as {
  connectionId: string;
  keepaliveMs: number;
};

/** The clock goes on and timers do not: a device that sleeps, or a page that is frozen. */
function sleep(ms: number) {
  vi.setSystemTime(Date.now() + ms);
}

describe.each(['sse', 'ws'] as const)('%s', (updateStrategy) => {
  async function connected() {
    const page = openPage({ updateStrategy });
    page.headcount.connect();
    await page.stream.connects();
    return page;
  }
  const named = (page: ReturnType<typeof openPage>) => page.stream.url.searchParams.get('replaces');

  test('a new stream names the one before it, however that ended', async () => {
    const page = await connected();
    expect(named(page)).toBeNull();
    await page.stream.breaks();
    await vi.advanceTimersByTimeAsync(1000);
    expect(named(page)).toBe(connectionId);
    await page.stream.connects({ connectionId: 'second' });
    page.headcount.reconnect();
    expect(named(page)).toBe('second');
    await page.stream.connects({ connectionId: 5 });
    page.headcount.reconnect();
    expect(page.streams).toHaveLength(4);
  });

  test('a visible page notices within seconds that the device slept longer than streams last', async () => {
    const page = await connected();
    sleep(3_600_000);
    await vi.advanceTimersByTimeAsync(4000);
    expect(page.streams).toHaveLength(2);
    expect(page.streams[0]!.closed).toBe(true);
    expect(named(page)).toBe(connectionId);
  });

  test('a short nap costs no stream', async () => {
    const page = await connected();
    sleep(keepaliveMs);
    await vi.advanceTimersByTimeAsync(4000);
    await page.stream.says(messages.server.keepalive);
    expect(page.streams).toHaveLength(1);
  });

  test('a hidden page whose timers are held back is not taken for one that slept', async () => {
    const page = await connected();
    page.setHidden(true);
    for (let beat = 0; beat < 5; beat++) {
      await page.stream.says(messages.server.keepalive);
      sleep(1.5 * keepaliveMs);
      await vi.advanceTimersByTimeAsync(0);
    }
    expect(page.streams).toHaveLength(1);
  });

  test.each(['visibilitychange', 'resume'])(
    'a page that is looked at again (%s) after a silence has a new stream at once',
    async (type) => {
      const page = await connected();
      page.setHidden(true);
      sleep(2 * keepaliveMs);
      page.window.document.hidden = false;
      page.window.document.dispatchEvent(new Event(type));
      expect(page.streams).toHaveLength(2);
    },
  );

  test('a page that is looked at again and has heard from the server keeps its stream', async () => {
    const page = await connected();
    page.setHidden(true);
    sleep(keepaliveMs);
    page.setHidden(false);
    expect(page.streams).toHaveLength(1);
  });

  test('a network that was away and is back is not trusted with the old stream', async () => {
    const page = await connected();
    page.setOnline(false);
    page.setOnline(true);
    await vi.advanceTimersByTimeAsync(1000);
    expect(page.streams).toHaveLength(2);
    expect(page.streams[0]!.closed).toBe(true);
    page.setOnline(true);
    expect(page.streams, 'one that is being opened is new enough').toHaveLength(2);
  });

  test('what an old stream still delivers never overwrites newer state', async () => {
    const page = await connected();
    page.headcount.subscribe(() => {});
    const [old] = page.streams;
    sleep(3_600_000);
    await vi.advanceTimersByTimeAsync(4000);
    await page.stream.connects();
    await page.stream.says({ ...messages.server.stats, total: 9 });
    await old!.says(messages.server.stats);
    await old!.says(messages.server['stats-unauthorized']);
    await settled();
    expect(page.headcount.getSnapshot()).toMatchObject({ total: 9, authorized: true, status: 'open' });
  });
});
