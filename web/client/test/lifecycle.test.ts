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
  function connected() {
    const page = openPage({ updateStrategy });
    page.headcount.connect();
    page.stream.connects();
    return page;
  }
  const named = (page: ReturnType<typeof openPage>) => page.stream.url.searchParams.get('replaces');

  test('a new stream names the one before it, however that ended', async () => {
    const page = connected();
    expect(named(page)).toBeNull();
    page.stream.breaks();
    await vi.advanceTimersByTimeAsync(1000);
    expect(named(page)).toBe(connectionId);
    page.stream.connects({ connectionId: 'second' });
    page.headcount.reconnect();
    expect(named(page)).toBe('second');
    page.stream.connects({ connectionId: 5 });
    page.headcount.reconnect();
    expect(page.streams).toHaveLength(4);
  });

  test('a visible page notices within seconds that the device slept longer than streams last', async () => {
    const page = connected();
    sleep(3_600_000);
    await vi.advanceTimersByTimeAsync(4000);
    expect(page.streams).toHaveLength(2);
    expect(page.streams[0]!.closed).toBe(true);
    expect(named(page)).toBe(connectionId);
  });

  test('a short nap costs no stream', async () => {
    const page = connected();
    sleep(keepaliveMs);
    await vi.advanceTimersByTimeAsync(4000);
    page.stream.says(messages.server.keepalive);
    expect(page.streams).toHaveLength(1);
  });

  test('a hidden page whose timers are held back is not taken for one that slept', async () => {
    const page = connected();
    page.setHidden(true);
    for (let beat = 0; beat < 5; beat++) {
      page.stream.says(messages.server.keepalive);
      sleep(1.5 * keepaliveMs);
      await vi.advanceTimersByTimeAsync(0);
    }
    expect(page.streams).toHaveLength(1);
  });

  test.each(['visibilitychange', 'resume'])(
    'a page that is looked at again (%s) after a silence has a new stream at once',
    (type) => {
      const page = connected();
      page.setHidden(true);
      sleep(2 * keepaliveMs);
      page.window.document.hidden = false;
      page.window.document.dispatchEvent(new Event(type));
      expect(page.streams).toHaveLength(2);
    },
  );

  test('a page that is looked at again and has heard from the server keeps its stream', () => {
    const page = connected();
    page.setHidden(true);
    sleep(keepaliveMs);
    page.setHidden(false);
    expect(page.streams).toHaveLength(1);
  });

  test('a network that was away and is back is not trusted with the old stream', () => {
    const page = connected();
    page.setOnline(false);
    page.setOnline(true);
    expect(page.streams).toHaveLength(2);
    expect(page.streams[0]!.closed).toBe(true);
    page.setOnline(true);
    expect(page.streams, 'one that is being opened is new enough').toHaveLength(2);
  });

  test('what an old stream still delivers never overwrites newer state', async () => {
    const page = connected();
    page.headcount.subscribe(() => {});
    const [old] = page.streams;
    sleep(3_600_000);
    await vi.advanceTimersByTimeAsync(4000);
    page.stream.connects();
    page.stream.says({ ...messages.server.stats, total: 9 });
    old!.says(messages.server.stats);
    old!.says(messages.server['stats-unauthorized']);
    await settled();
    expect(page.headcount.getSnapshot()).toMatchObject({ total: 9, authorized: true, status: 'open' });
  });
});
