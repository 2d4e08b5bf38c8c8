import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ClientMessage } from '../src/messages.js';
import { openEventStream, type Site } from '../src/transport.js';
import { messages, reconnect } from './fixtures.js';
import { openPage, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const { connectionId } = messages.server.connected;

function openWith(options: Parameters<typeof openPage>[0] = {}) {
  const page = openPage(options);
  page.headcount.connect();
  return page;
}

/** A page whose subscription is asked for, with the POST still unanswered. */
async function subscribed(options: Parameters<typeof openPage>[0] = {}) {
  const page = openWith(options);
  page.headcount.subscribe(() => {});
  await page.stream.connects();
  return page;
}

test('opens an event stream that says route and version, and that nothing may keep', () => {
  const { stream } = openWith({ routeTracking: true, version: 'v 1&x' });
  expect(stream.url.href).toBe('https://shop.example/__skew/sse?route=%2Flanding&version=v+1%26x');
  expect(stream.init!.cache).toBe('no-store');
  expect(stream.withCredentials).toBe(false);
});

test('opens a WebSocket beside it, on the same base path', () => {
  const { stream } = openWith({ updateStrategy: 'ws', routeTracking: true, basePath: '/pro/__skew/' });
  expect(stream.url.href).toBe('wss://shop.example/pro/__skew/ws?route=%2Flanding&version=v1');
});

test('sends cookies to another origin unless the page says otherwise', async () => {
  const away = await subscribed({ url: 'https://live.example' });
  expect(away.stream.url.origin).toBe('https://live.example');
  expect(away.stream.withCredentials).toBe(true);
  expect(away.posts[0]!.init.credentials).toBe('include');

  const omitted = await subscribed({ url: 'https://live.example', credentials: 'omit' });
  expect(omitted.stream.withCredentials).toBe(false);
  expect(omitted.posts[0]!.init.credentials).toBe('omit');

  expect((await subscribed({ url: 'https://shop.example/' })).posts[0]!.init.credentials).toBe('same-origin');
});

test('posts JSON that names the secret handle', async () => {
  const { headcount, posts } = await subscribed();
  expect(posts[0]).toMatchObject({ path: '/__skew/subscribe-stats', body: { connectionId, deltas: true } });
  expect(posts[0]!.init).toMatchObject({ method: 'POST', credentials: 'same-origin' });
  expect([...(posts[0]!.init.headers as Headers)]).toEqual([['content-type', 'application/json']]);
  headcount.setRoute('/b');
  expect(posts[1]).toMatchObject({ path: '/__skew/route', body: { connectionId, route: '/b' } });
});

test('sends the golden messages over a WebSocket', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  const leave = page.headcount.subscribe(() => {});
  await page.stream.connects();
  page.headcount.setRoute('/shopping');
  leave();
  await settled();
  const { client } = messages;
  expect(page.stream.sent).toEqual([client['subscribe-stats'], client['route-update'], client['unsubscribe-stats']]);
});

test('has one route under way and one waiting, so that the last route is the last to arrive', async () => {
  const page = openWith();
  await page.stream.connects();
  for (const route of ['/a', '/b', '/c', '/d']) page.headcount.setRoute(route);
  expect(page.posts.map(({ body }) => body.route)).toEqual(['/a']);
  await page.posts[0]!.answer(200);
  expect(page.posts.map(({ body }) => body.route)).toEqual(['/a', '/d']);
  await page.posts[1]!.answer(200);
  expect(page.posts).toHaveLength(2);
});

test('sends ten routes a second, and then the newest one', async () => {
  const page = openWith({ updateStrategy: 'ws' });
  await page.stream.connects();
  const routes = () => page.stream.sent.map((message) => (message as { route: string }).route);
  for (let number = 0; number < 500; number++) page.headcount.setRoute(`/${number}`);
  expect(routes()).toEqual([...Array(10).keys()].map((number) => `/${number}`));
  await vi.advanceTimersByTimeAsync(1000);
  expect(routes().slice(10)).toEqual(['/499']);
  page.headcount.setRoute('/last');
  expect(routes().slice(11)).toEqual(['/last']);
});

test('a route on its way does not hold up the subscription', async () => {
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  page.headcount.subscribe(() => {});
  expect(page.posts.map(({ path }) => path)).toEqual(['/__skew/route', '/__skew/subscribe-stats']);
});

test.each([429, 503])('tries again after what a %d says', async (status) => {
  const { posts } = await subscribed();
  await posts[0]!.answer(status, { 'retry-after': '7' });
  await vi.advanceTimersByTimeAsync(6999);
  expect(posts).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(4001);
  expect(posts).toHaveLength(2);
  expect(posts[1]!.body).toEqual(posts[0]!.body);
});

test('understands a Retry-After that is a date', async () => {
  const { posts } = await subscribed();
  await posts[0]!.answer(503, { 'retry-after': new Date(Date.now() + 20_000).toUTCString() });
  await vi.advanceTimersByTimeAsync(18_900);
  expect(posts).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(5100);
  expect(posts).toHaveLength(2);
});

test('repeats a POST that the network lost, with back-off', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const { posts } = await subscribed();
  await posts[0]!.fail();
  await vi.advanceTimersByTimeAsync(500);
  await posts[1]!.fail();
  await vi.advanceTimersByTimeAsync(999);
  expect(posts).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(1);
  expect(posts).toHaveLength(3);
});

test('after a failure sends the newest route, not the one that failed', async () => {
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  await page.posts[0]!.fail();
  page.headcount.setRoute('/b');
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.posts.map(({ body }) => body.route)).toEqual(['/a', '/b']);
});

test('prefers a newer route also to one that fails while it waits', async () => {
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  page.headcount.setRoute('/b');
  await page.posts[0]!.fail();
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.posts.map(({ body }) => body.route)).toEqual(['/a', '/b']);
});

test('forgets earlier failures once a POST has come through', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  for (const delay of [500, 1000, 2000]) {
    await page.posts.at(-1)!.fail();
    await vi.advanceTimersByTimeAsync(delay);
  }
  await page.posts.at(-1)!.answer(200);
  page.headcount.setRoute('/b');
  await page.posts.at(-1)!.fail();
  await vi.advanceTimersByTimeAsync(500);
  expect(page.posts).toHaveLength(6);
});

test('gives up a POST that hangs, and sends it again', async () => {
  const { posts } = await subscribed();
  await vi.advanceTimersByTimeAsync(20_000);
  expect(posts[0]!.init.signal!.aborted).toBe(true);
  await vi.advanceTimersByTimeAsync(1000);
  expect(posts).toHaveLength(2);
});

test('leaves a POST alone that was under way when its stream ended', async () => {
  const { headcount, posts } = await subscribed();
  headcount.close();
  expect(posts[0]!.init.signal!.aborted).toBe(true);
  await settled();
  expect(vi.getTimerCount()).toBe(0);
});

test('posts nothing more for a stream that is over', async () => {
  const { headcount, posts } = await subscribed();
  await posts[0]!.answer(503, { 'retry-after': '5' });
  headcount.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(posts).toHaveLength(1);
  expect(vi.getTimerCount()).toBe(0);
});

test('takes a 404 for the loss of the connection and opens another', async () => {
  const page = await subscribed();
  await page.posts[0]!.answer(404);
  expect(page.stream.closed).toBe(true);
  expect(page.headcount.getSnapshot()).toMatchObject({
    status: 'reconnecting',
    error: 'The connection was lost.',
  });
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.streams).toHaveLength(2);
  await page.stream.connects({ connectionId: 'second' });
  expect(page.posts.at(-1)!.body.connectionId).toBe('second');
});

test('is denied by a 403, and says so', async () => {
  const page = await subscribed();
  await page.posts[0]!.answer(403);
  expect(page.headcount.getSnapshot()).toMatchObject({
    authorized: false,
    status: 'open',
    error: 'https://shop.example/__skew/subscribe-stats answered 403 (application/problem+json): Because.',
  });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(page.posts).toHaveLength(1);
});

test('says that POSTs do not reach the server, goes on trying, and says no more when one has', async () => {
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  const error = () => page.headcount.getSnapshot().error;
  for (let attempt = 0; attempt < 3; attempt++) {
    expect(error()).toBeNull();
    await page.posts.at(-1)!.fail();
    await vi.advanceTimersByTimeAsync(4000);
  }
  expect(error()).toBe('https://shop.example/__skew/route did not answer (network or CORS).');
  expect(page.posts).toHaveLength(4);
  await page.posts.at(-1)!.answer(200);
  expect(error()).toBeNull();
  expect(page.headcount.getSnapshot().status).toBe('open');
});

const html = { 'content-type': 'text/html; charset=utf-8' };
const htmlCame = (path: string) =>
  `https://shop.example/__skew/${path} answered 200 (text/html). Is it passed on to Headcount?`;

describe.each(reconnect.posts)('$name answers a POST', ({ status, contentType, body, outcome, says }) => {
  const sent = [
    { type: 'route-update', route: '/a' },
    { type: 'subscribe-stats', deltas: true },
    { type: 'tabs', set: [], remove: [] },
  ] satisfies ClientMessage[];

  test.each(sent)('$type', async (message) => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const posts: string[] = [];
    const headers = contentType ? { 'content-type': contentType } : undefined;
    const site = {
      url: (path) => 'https://shop.example/__skew' + path,
      backoff: { baseMs: 1000, capMs: 30_000 },
      headers: undefined,
      async fetch(url, init) {
        if (!init?.method)
          return new Response(new ReadableStream(), { headers: { 'content-type': 'text/event-stream' } });
        posts.push(String(url));
        return new Response(body || null, { status, headers: headers! });
      },
    } as Partial<Site> as Site;
    const events = { received: vi.fn(), ended: vi.fn(), refused: vi.fn() };
    const stream = openEventStream(site, new URLSearchParams(), events);
    stream.send(message, 'secret');
    await settled();
    const path = `https://shop.example/__skew/${message.type.replace('-update', '')}`;
    expect(posts).toEqual([path]);
    const told = events.refused.mock.calls.length;
    expect(events.ended.mock.calls).toEqual(outcome === 'unknown' ? [['']] : []);

    await vi.advanceTimersByTimeAsync(1000);
    expect(posts).toHaveLength(outcome === 'refused' || outcome === 'later' ? 2 : 1);
    await vi.advanceTimersByTimeAsync(28_000);
    if (outcome === 'later') expect(posts.length).toBeGreaterThan(3);
    else expect(posts).toHaveLength(outcome === 'refused' ? 2 : 1);
    await vi.advanceTimersByTimeAsync(5000);
    if (outcome === 'refused') expect(posts).toHaveLength(3);

    expect(told).toBe(outcome === 'denied' || outcome === 'refused' ? 1 : 0);
    if (outcome === 'later') expect(events.refused).toHaveBeenCalled();
    for (const [what, as, error] of events.refused.mock.calls) {
      expect([what, as]).toEqual([message, outcome === 'denied' ? status : 0]);
      expect(error).toContain(path);
      for (const part of says) expect(error).toContain(part);
    }
    stream.close();
    expect(vi.getTimerCount()).toBe(0);
  });
});

test('what one answer in between says does not hide that a message has arrived', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  const error = () => page.headcount.getSnapshot().error;
  await page.posts[0]!.answer(404, html);
  await vi.advanceTimersByTimeAsync(1000);
  await page.posts[1]!.answer(502, html);
  expect(error()).toContain('502 (text/html)');
  await vi.advanceTimersByTimeAsync(1000);
  await page.posts[2]!.answer(200);
  expect(error()).toBeNull();
});

test('figures do not hide that routes do not arrive', async () => {
  const page = await subscribed();
  await page.posts[0]!.answer(200);
  page.headcount.setRoute('/a');
  await page.posts[1]!.answer(404, html);
  await page.stream.says(messages.server.stats);
  expect(page.headcount.getSnapshot()).toMatchObject({
    authorized: true,
    status: 'open',
    error: 'https://shop.example/__skew/route answered 404 (text/html). Is it passed on to Headcount?',
  });
  expect(page.streams).toHaveLength(1);
});

test('a route that a page of HTML answers has not arrived: says so at once, and tries again rarely', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const page = openWith();
  await page.stream.connects();
  page.headcount.setRoute('/a');
  await page.posts[0]!.answer(200, html);
  const error = () => page.headcount.getSnapshot().error;
  expect(error()).toBe(htmlCame('route'));
  // Something may just be starting.
  await vi.advanceTimersByTimeAsync(500);
  await page.posts[1]!.answer(200, html);
  await vi.advanceTimersByTimeAsync(30_000);
  expect(page.posts).toHaveLength(2);
  page.headcount.setRoute('/b');
  await vi.advanceTimersByTimeAsync(2000);
  expect(page.posts.map(({ body }) => body.route)).toEqual(['/a', '/a', '/b']);
  await page.posts[2]!.answer(200);
  expect(error()).toBeNull();
  expect(page.headcount.getSnapshot().status).toBe('open');
});

test('a subscription that a page of HTML answers is not accepted, and not denied', async () => {
  const page = await subscribed();
  await page.posts[0]!.answer(200, html);
  expect(page.headcount.getSnapshot()).toMatchObject({
    authorized: null,
    status: 'open',
    error: htmlCame('subscribe-stats'),
  });
  await vi.advanceTimersByTimeAsync(1000);
  expect(page.posts.map(({ path }) => path)).toEqual(['/__skew/subscribe-stats', '/__skew/subscribe-stats']);
});

test('a subscription that does not reach the server is not denied', async () => {
  const page = await subscribed();
  for (let attempt = 0; attempt < 3; attempt++) {
    await page.posts.at(-1)!.fail();
    await vi.advanceTimersByTimeAsync(4000);
  }
  expect(page.headcount.getSnapshot()).toMatchObject({
    authorized: null,
    error: 'https://shop.example/__skew/subscribe-stats did not answer (network or CORS).',
  });
});

test('only a page behind a service worker asks to be asked whether it is there, because a frozen page cannot answer', async () => {
  const page = openWith();
  expect(page.stream.url.searchParams.has('answers')).toBe(false);
  page.window.navigator.serviceWorker = { controller: null };
  page.headcount.reconnect();
  expect(page.stream.url.searchParams.has('answers')).toBe(false);
  page.window.navigator.serviceWorker.controller = {};
  page.headcount.reconnect();
  expect(page.streams).toHaveLength(3);
  expect(page.stream.url.searchParams.get('answers')).toBe('1');
});

test.each(['sse', 'ws', 'auto'] as const)(
  'opens a stream where nobody may look for a service worker (%s)',
  (updateStrategy) => {
    const forbidden = () => {
      throw new DOMException('the context is sandboxed', 'SecurityError');
    };
    const page = openPage({ updateStrategy }, undefined, ({ navigator }) => {
      Object.defineProperty(navigator, 'serviceWorker', { get: forbidden });
    });
    page.headcount.connect();
    expect(page.streams).toHaveLength(1);
    expect(page.headcount.getSnapshot()).toMatchObject({ status: 'connecting', error: null });
  },
);

test('answers a server that asks whether the page is there, with the route that it has', async () => {
  const page = openWith();
  await page.stream.connects();
  await page.stream.says({ type: 'are-you-there' });
  expect(page.posts.at(-1)).toMatchObject({ path: '/__skew/route', body: { connectionId, route: '/' } });
  await page.posts.at(-1)!.answer(200);
  page.headcount.setRoute('/a');
  await page.posts.at(-1)!.answer(200);
  await page.stream.says({ type: 'are-you-there' });
  expect(page.posts).toHaveLength(3);
  expect(page.posts.at(-1)!.body.route).toBe('/a');
});
