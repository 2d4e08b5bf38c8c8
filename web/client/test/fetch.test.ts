import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { messages, reconnect } from './fixtures.js';
import { openPage, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
});
afterEach(() => {
  vi.useRealTimers();
});

const headers = { authorization: 'Bearer t' };

/** A page whose stream is read by fetch. */
async function reading(options: Parameters<typeof openPage>[0] = {}) {
  const page = openPage({ headers, ...options });
  page.headcount.connect();
  await settled();
  return page;
}

const status = (page: ReturnType<typeof openPage>) => page.headcount.getSnapshot().status;

test.each(['auto', 'ws', 'sse'] as const)(
  'sends headers with streams and POSTs, whatever the strategy (%s)',
  async (updateStrategy) => {
    let token = 0;
    const page = await reading({ updateStrategy, headers: async () => ({ authorization: `Bearer ${++token}` }) });
    expect(page.stream.kind).toBe('sse');
    expect(page.stream.init!.headers).toEqual({ authorization: 'Bearer 1' });
    page.stream.connects();
    await settled();
    page.headcount.subscribe(() => {});
    await settled();
    expect([...(page.posts[0]!.init.headers as Headers)]).toEqual([
      ['authorization', 'Bearer 2'],
      ['content-type', 'application/json'],
    ]);
    page.stream.breaks();
    await vi.advanceTimersByTimeAsync(1000);
    expect(page.stream.init!.headers, 'asked anew for the next stream').toEqual({ authorization: 'Bearer 3' });
  },
);

test('reads events however they are cut and whatever ends their lines', async () => {
  const page = await reading();
  const heard: unknown[] = [];
  page.headcount.onMessage((message) => heard.push(message));
  page.stream.connects();
  await settled();
  const text =
    ': a comment\r\n\r\nid: 7\r\ndata: {"type":"a",\r\ndata: "n":1}\r\n\r\ndata:{"type":"b"}\n\ndata: {"type":"ü"}\r\r';
  for (const piece of text) await page.stream.writes!(piece);
  await page.stream.writes!('data: {"type":"cut off"}\n');
  expect(heard).toEqual([{ type: 'a', n: 1 }, { type: 'b' }, { type: 'ü' }]);
});

test('takes a comment for a sign of life', async () => {
  const page = await reading();
  page.stream.connects({ keepaliveMs: 4000 });
  await settled();
  await vi.advanceTimersByTimeAsync(9000);
  await page.stream.writes!(':\n\n');
  await vi.advanceTimersByTimeAsync(9000);
  expect(status(page)).toBe('open');
  await vi.advanceTimersByTimeAsync(1000);
  expect(status(page)).toBe('reconnecting');
});

test('obeys Retry-After, and adds a jittered delay so that not all come back at once', async () => {
  const page = await reading();
  await page.stream.answers!(503, { 'retry-after': '7' });
  expect(page.headcount.getSnapshot().error).toBe('The connection was lost: the server answered 503');
  await vi.advanceTimersByTimeAsync(8999);
  expect(page.streams).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(page.streams).toHaveLength(2);
});

test('nobody who looks at the page, nor a network that is back, cuts Retry-After short', async () => {
  const page = await reading();
  await page.stream.answers!(503, { 'retry-after': '7' });
  await vi.advanceTimersByTimeAsync(3000);
  page.setHidden(true);
  page.setHidden(false);
  page.setOnline(false);
  page.setOnline(true);
  expect(page.streams).toHaveLength(1);
  // The back/forward cache stops what was planned.
  page.window.dispatchEvent(new Event('pagehide'));
  page.window.dispatchEvent(new Event('pageshow'));
  await vi.advanceTimersByTimeAsync(3999);
  expect(page.streams).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.streams).toHaveLength(2);
  page.headcount.reconnect();
  await settled();
  expect(page.streams).toHaveLength(3);
});

describe.each(reconnect.wakeEvents)('%s ends a delay', (event) => {
  const wakes = reconnect.wakes.flatMap((wake) =>
    [0, 1].map((random) => ({ ...wake, random, dueMs: wake.delayMs[random]! })),
  );

  test.each(wakes)('$name, drawn $random', async ({ notBeforeMs, random, dueMs }) => {
    const page = await reading();
    for (let attempt = 0; attempt < 7; attempt++) {
      await page.stream.answers!(500);
      await vi.advanceTimersByTimeAsync(30_000);
    }
    const before = page.streams.length;
    // The delay that is ended is a long one.
    vi.spyOn(Math, 'random').mockReturnValue(0.9);
    const elapsedMs = 5000;
    await page.stream.answers!(503, { 'retry-after': String((elapsedMs + notBeforeMs) / 1000) });
    await vi.advanceTimersByTimeAsync(elapsedMs);
    expect(page.streams).toHaveLength(before);
    vi.spyOn(Math, 'random').mockReturnValue(random);
    const target = event === 'visibilitychange' ? page.window.document : page.window;
    target.dispatchEvent(new Event(event));
    if (dueMs) {
      await vi.advanceTimersByTimeAsync(dueMs - 1);
      expect(page.streams).toHaveLength(before);
      await vi.advanceTimersByTimeAsync(1);
    }
    await settled();
    expect(page.streams).toHaveLength(before + 1);
  });
});

test('obeys retry: when the stream ends without another word', async () => {
  const page = await reading();
  page.stream.connects();
  await settled();
  await page.stream.writes!('retry: 5000\n\n');
  page.stream.onend!();
  await settled();
  await vi.advanceTimersByTimeAsync(6999);
  expect(page.streams).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(page.streams).toHaveLength(2);
});

test('stops for good at a 403, which is said to a foreign site', async () => {
  const page = await reading();
  await page.stream.answers!(403);
  expect(page.headcount.getSnapshot()).toMatchObject({
    status: 'closed',
    error: 'The connection was denied: the server answered 403',
  });
  await vi.advanceTimersByTimeAsync(100_000);
  expect(page.streams).toHaveLength(1);
});

test('comes back with fresh headers when a token has run out', async () => {
  const page = await reading();
  await page.stream.answers!(401);
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.streams).toHaveLength(2);
});

test('aborts the request of a stream that is not wanted any more', async () => {
  const page = await reading();
  page.stream.connects();
  await settled();
  page.headcount.close();
  await settled();
  expect(page.stream.closed).toBe(true);
  expect(status(page)).toBe('closed');
  expect(vi.getTimerCount()).toBe(0);
});

test('reads by fetch after an EventSource that could not open, because that does not say why', async () => {
  const page = openPage();
  page.headcount.connect();
  expect(page.stream.init).toBeUndefined();
  page.stream.breaks();
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.streams).toHaveLength(2);
  expect(page.stream.init).toBeDefined();
  await page.stream.answers!(429, { 'retry-after': '20' });
  await vi.advanceTimersByTimeAsync(20_000);
  expect(page.streams).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(2000);
  expect(page.streams).toHaveLength(3);
  page.stream.says(messages.server.connected);
  await settled();
  expect(status(page)).toBe('open');
});

test('keeps to EventSource when a stream that had opened is lost', async () => {
  const page = openPage();
  page.headcount.connect();
  page.stream.connects();
  page.stream.breaks();
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.stream.init).toBeUndefined();
});
