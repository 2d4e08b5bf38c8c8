import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { reconnect } from './fixtures.js';
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
    expect([...(page.stream.init!.headers as Headers)]).toEqual([['authorization', 'Bearer 1']]);
    await page.stream.connects();
    await settled();
    page.headcount.subscribe(() => {});
    await settled();
    expect([...(page.posts[0]!.init.headers as Headers)]).toEqual([
      ['authorization', 'Bearer 2'],
      ['content-type', 'application/json'],
    ]);
    await page.stream.breaks();
    await vi.advanceTimersByTimeAsync(1000);
    const asked = [...(page.stream.init!.headers as Headers)];
    expect(asked, 'asked anew for the next stream').toEqual([['authorization', 'Bearer 3']]);
  },
);

test('reads events however they are cut and whatever ends their lines', async () => {
  const page = await reading();
  const heard: unknown[] = [];
  page.headcount.onMessage((message) => heard.push(message));
  await page.stream.connects();
  await settled();
  const text =
    ': a comment\r\n\r\nid: 7\r\ndata: {"type":"a",\r\ndata: "n":1}\r\n\r\ndata:{"type":"b"}\n\ndata: {"type":"ü"}\r\r';
  for (const piece of text) await page.stream.writes!(piece);
  await page.stream.writes!('data: {"type":"cut off"}\n');
  expect(heard).toEqual([{ type: 'a', n: 1 }, { type: 'b' }, { type: 'ü' }]);
});

test('takes a comment for a sign of life', async () => {
  const page = await reading();
  await page.stream.connects({ keepaliveMs: 4000 });
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
  await page.stream.answers(503, { 'retry-after': '7' });
  expect(page.headcount.getSnapshot().error).toBe('https://shop.example/__skew answered 503 (text/plain).');
  await vi.advanceTimersByTimeAsync(8999);
  expect(page.streams).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(page.streams).toHaveLength(2);
});

test('nobody who looks at the page, nor a network that is back, cuts Retry-After short', async () => {
  const page = await reading();
  await page.stream.answers(503, { 'retry-after': '7' });
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
    [0, 1].map((random) => ({ ...wake, random, dueMs: wake[event === 'online' ? 'onlineMs' : 'delayMs'][random]! })),
  );

  test.each(wakes)('$name, drawn $random', async ({ notBeforeMs, random, dueMs }) => {
    const page = await reading();
    for (let attempt = 0; attempt < 7; attempt++) {
      await page.stream.answers(500);
      await vi.advanceTimersByTimeAsync(30_000);
    }
    const before = page.streams.length;
    // The delay that is ended is a long one.
    vi.spyOn(Math, 'random').mockReturnValue(0.9);
    const elapsedMs = 5000;
    await page.stream.answers(503, { 'retry-after': String((elapsedMs + notBeforeMs) / 1000) });
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

test('a 403 ends nothing, because a proxy or a firewall may say it for a while', async () => {
  const page = await reading();
  await page.stream.answers(403);
  expect(page.headcount.getSnapshot()).toMatchObject({
    status: 'reconnecting',
    error: 'https://shop.example/__skew answered 403 (text/plain). Is it passed on to Headcount?',
  });
});

const answers = reconnect.answers.filter(({ refused }) => refused !== null);

describe.each(answers.flatMap((answer) => (['sse', 'ws'] as const).map((kind) => ({ ...answer, kind }))))(
  '$kind answered by $name',
  ({ kind, status: code, contentType, refused, says }) => {
    const reading = async () => {
      const page = openPage({ updateStrategy: kind });
      page.headcount.connect();
      await settled();
      return page;
    };
    const answer = (page: ReturnType<typeof openPage>) => page.stream.answers(code, { 'content-type': contentType });

    test('says what came', async () => {
      const page = await reading();
      await answer(page);
      const { error } = page.headcount.getSnapshot();
      for (const part of says) expect(error).toContain(part);
    });

    test(refused ? 'looks again once, and then rarely' : 'looks again soon', async () => {
      const page = await reading();
      await answer(page);
      await vi.advanceTimersByTimeAsync(1000);
      expect(page.streams).toHaveLength(2);
      await answer(page);
      await vi.advanceTimersByTimeAsync(30_000);
      expect(page.streams).toHaveLength(refused ? 2 : 3);
      await vi.advanceTimersByTimeAsync(4000);
      expect(page.streams).toHaveLength(3);
    });

    test('looks again soon if it had a stream before, because a server that restarts may be the cause', async () => {
      const page = await reading();
      await page.stream.connects();
      await page.stream.breaks();
      await vi.advanceTimersByTimeAsync(1000);
      for (const delayMs of [2000, 4000]) {
        const before = page.streams.length;
        await answer(page);
        await vi.advanceTimersByTimeAsync(delayMs);
        expect(page.streams).toHaveLength(before + 1);
      }
    });
  },
);

describe.each(reconnect.unanswered.flatMap((row) => (['sse', 'ws'] as const).map((kind) => ({ ...row, kind }))))(
  '$kind unanswered by $name',
  ({ kind, url, answersUnseen, refused, says }) => {
    const reading = async () => {
      const page = openPage({ updateStrategy: kind, url: url ?? undefined });
      page.answersUnseen = answersUnseen ?? undefined;
      page.headcount.connect();
      await settled();
      return page;
    };

    test('says why, as far as a page can know it', async () => {
      const page = await reading();
      await page.stream.breaks();
      const { error } = page.headcount.getSnapshot();
      for (const part of says) expect(error).toContain(part);
    });

    test(refused ? 'looks again once, and then rarely' : 'looks again soon', async () => {
      const page = await reading();
      await page.stream.breaks();
      await vi.advanceTimersByTimeAsync(1000);
      expect(page.streams).toHaveLength(2);
      await page.stream.breaks();
      await vi.advanceTimersByTimeAsync(30_000);
      expect(page.streams).toHaveLength(refused ? 2 : 3);
      await vi.advanceTimersByTimeAsync(4000);
      expect(page.streams).toHaveLength(3);
    });
  },
);

test('a page that cannot make its headers is no matter of CORS', async () => {
  const page = openPage({ url: 'https://live.example', headers: () => Promise.reject(new Error('no token')) });
  page.answersUnseen = 'opaque';
  page.headcount.connect();
  await settled();
  expect(page.headcount.getSnapshot().error).toBe('The connection to https://live.example/__skew failed.');
});

test('a page on https whose browser throws at ws: says what to do, and looks again rarely', async () => {
  const tries: string[] = [];
  const refusing = function (url: string) {
    tries.push(url);
    throw new DOMException('The operation is insecure.', 'SecurityError');
  } as any;
  const { headcount } = openPage({ updateStrategy: 'ws', url: 'http://live.example', WebSocket: refusing });
  headcount.connect();
  expect(headcount.getSnapshot().error).toBe(
    'A page on https may not use http://live.example/__skew. Serve Headcount on https.',
  );
  await vi.advanceTimersByTimeAsync(30_000);
  expect(tries).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(4000);
  expect(tries).toHaveLength(3);
});

test('a page without an address says so, and throws nothing', async () => {
  const { headcount } = openPage({}, undefined, (window) => {
    window.location = { origin: 'null', pathname: 'blank' };
  });
  headcount.connect();
  await settled();
  expect(headcount.getSnapshot().error).toMatch(/Invalid URL/);
});

test('asks what answers in place of a WebSocket, once, and stops asking when the page is left', async () => {
  const page = openPage({ updateStrategy: 'ws' });
  page.headcount.connect();
  const { stream } = page;
  stream.onerror!({});
  stream.onclose?.({ code: 1006, reason: '' });
  await settled();
  expect(stream.probes.map(({ url }) => url.href)).toEqual([
    'https://shop.example/__skew/ws?origin=https://shop.example',
  ]);
  expect(stream.probes[0]!.init!.cache).toBe('no-store');
  expect(page.headcount.getSnapshot()).toMatchObject({ status: 'connecting', error: null });
  page.window.dispatchEvent(new Event('pagehide'));
  expect(stream.probes[0]!.closed).toBe(true);
});

test.each(['ws', 'sse'] as const)('says what Headcount has to say about a refusal (%s)', async (updateStrategy) => {
  const page = openPage({ updateStrategy });
  page.headcount.connect();
  const problem = { 'content-type': 'application/problem+json' };
  await page.stream.answers(403, problem, '{"status":403,"detail":"This page is of another site."}');
  expect(page.headcount.getSnapshot().error).toBe(
    'https://shop.example/__skew answered 403 (application/problem+json): This page is of another site.',
  );
  await vi.advanceTimersByTimeAsync(1000);
  await page.stream.answers(503, { ...problem, 'retry-after': '7' }, 'no JSON');
  expect(page.headcount.getSnapshot().error).toBe(
    'https://shop.example/__skew answered 503 (application/problem+json).',
  );
  await vi.advanceTimersByTimeAsync(8000);
  expect(page.streams, 'obeys Retry-After').toHaveLength(2);
});

test('asks nothing when the page itself closes a WebSocket that is opening', async () => {
  const page = openPage({ updateStrategy: 'ws' });
  page.headcount.connect();
  page.headcount.close();
  await page.stream.breaks();
  expect(page.stream.probes.every(({ init }) => init!.signal!.aborted)).toBe(true);
});

test('obeys the Retry-After of what answers in place of a WebSocket', async () => {
  const page = openPage({ updateStrategy: 'auto' });
  page.headcount.connect();
  await page.stream.answers(503, { 'retry-after': '7' });
  await vi.advanceTimersByTimeAsync(6999);
  expect(page.streams).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(3000);
  expect(page.streams.map(({ kind }) => kind)).toEqual(['ws', 'sse']);
});

describe('auto, where a proxy does not pass WebSockets on', () => {
  test('says what each way was answered', async () => {
    const page = openPage({ updateStrategy: 'auto' });
    page.headcount.connect();
    const html = { 'content-type': 'text/html; charset=utf-8' };
    for (const delayMs of [200, 40_000, 10_000, 40_000]) {
      await page.stream.answers(200, html);
      expect(page.headcount.getSnapshot().error).toBe(
        'https://shop.example/__skew answered 200 (text/html). Is it passed on to Headcount?',
      );
      await vi.advanceTimersByTimeAsync(delayMs);
    }
    expect(page.streams.map(({ kind }) => kind)).toEqual(['ws', 'sse', 'ws', 'sse', 'ws']);
  });

  test('does not wait longer with event streams, whose server may just be restarting', async () => {
    const page = openPage({ updateStrategy: 'auto' });
    page.headcount.connect();
    await page.stream.answers(502);
    await vi.advanceTimersByTimeAsync(200);
    await page.stream.answers(502);
    await vi.advanceTimersByTimeAsync(2000);
    await page.stream.answers(426);
    await vi.advanceTimersByTimeAsync(4000);
    expect(page.streams.map(({ kind }) => kind)).toEqual(['ws', 'sse', 'ws', 'sse']);
  });
});

test('says where no answer came from', async () => {
  const page = await reading();
  await page.stream.breaks();
  expect(page.headcount.getSnapshot().error).toBe('The connection to https://shop.example/__skew failed.');
});

test('comes back with fresh headers when a token has run out', async () => {
  const page = await reading();
  await page.stream.answers(401);
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.streams).toHaveLength(2);
});

test('aborts the request of a stream that is not wanted any more', async () => {
  const page = await reading();
  await page.stream.connects();
  await settled();
  page.headcount.close();
  await settled();
  expect(page.stream.closed).toBe(true);
  expect(status(page)).toBe('closed');
  expect(vi.getTimerCount()).toBe(0);
});
