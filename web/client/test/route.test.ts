// @vitest-environment jsdom
// @vitest-environment-options { "url": "https://shop.example/start?a=1#b" }
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { HeadcountOptions } from '../src/index.js';
import { createRouteTracker, type RouteTracker } from '../src/route.js';
import { openPage, settled } from './page.js';

const trackers: RouteTracker[] = [];

function track(read = () => location.pathname) {
  const changed = vi.fn();
  const tracker = createRouteTracker(window, read, changed);
  trackers.push(tracker);
  return { tracker, changed };
}

afterEach(() => {
  for (const tracker of trackers.splice(0).reverse()) tracker.track(false);
  Reflect.deleteProperty(history, 'pushState');
  history.replaceState(null, '', '/start');
});

test('tells the path at the start, and then each other path once', () => {
  const { tracker, changed } = track();
  tracker.track(true);
  history.pushState({ x: 1 }, '', '/a?q=1#f');
  history.pushState(null, '', '/a?q=2');
  history.replaceState(null, '', '/b');
  history.replaceState(null, '');
  expect(changed.mock.calls).toEqual([['/start'], ['/a'], ['/b']]);
});

test('does the navigation itself as ever', () => {
  const { tracker } = track();
  tracker.track(true);
  history.pushState({ x: 1 }, '', '/a');
  expect(history.state).toEqual({ x: 1 });
  expect(() => history.pushState(null, '', 'https://other.example/')).toThrow();
  expect(location.pathname).toBe('/a');
});

test('hears of back and forward', async () => {
  const { tracker, changed } = track();
  tracker.track(true);
  history.pushState(null, '', '/a');
  history.back();
  await vi.waitFor(() => expect(changed).toHaveBeenLastCalledWith('/start'));
});

test('does not take another fragment for another route', async () => {
  const { tracker, changed } = track();
  tracker.track(true);
  changed.mockClear();
  const moved = new Promise((resolve) => addEventListener('hashchange', resolve, { once: true }));
  location.hash = '#elsewhere';
  await moved;
  expect(changed).not.toHaveBeenCalled();
});

test('leaves the History API as it found it', () => {
  const own = Object.getOwnPropertyNames(history);
  const { tracker, changed } = track();
  tracker.track(true);
  expect(history.pushState).not.toBe(History.prototype.pushState);
  tracker.track(false);
  expect(history.pushState).toBe(History.prototype.pushState);
  expect(Object.getOwnPropertyNames(history)).toEqual(own);
  changed.mockClear();
  history.pushState(null, '', '/a');
  expect(changed).not.toHaveBeenCalled();
});

test('gives back what somebody else had put there before', () => {
  const theirs = vi.fn(History.prototype.pushState);
  history.pushState = theirs;
  const { tracker } = track();
  tracker.track(true);
  history.pushState(null, '', '/a');
  expect(theirs).toHaveBeenCalledOnce();
  tracker.track(false);
  expect(history.pushState).toBe(theirs);
});

test('does not cut off who wrapped on top, and does not wrap again', () => {
  const { tracker, changed } = track();
  tracker.track(true);
  const ours = history.pushState;
  const theirs: typeof ours = function (this: History, ...entry) {
    return ours.apply(this, entry);
  };
  history.pushState = theirs;
  tracker.track(false);
  expect(history.pushState).toBe(theirs);
  changed.mockClear();
  history.pushState(null, '', '/quiet');
  expect(changed).not.toHaveBeenCalled();
  tracker.track(true);
  expect(history.pushState).toBe(theirs);
  history.pushState(null, '', '/loud');
  expect(changed.mock.calls).toEqual([['/quiet'], ['/loud']]);
});

test('wraps once, however often it is started, and beside others of its kind', () => {
  const [a, b] = [track(), track()];
  a.tracker.track(true);
  b.tracker.track(true);
  a.tracker.track(true);
  history.pushState(null, '', '/a');
  for (const { changed } of [a, b]) expect(changed.mock.calls).toEqual([['/start'], ['/a']]);
  b.tracker.track(false);
  a.tracker.track(false);
  expect(history.pushState).toBe(History.prototype.pushState);
});

test('hears of the Navigation API, and leaves it as it was', () => {
  const navigation = new EventTarget();
  Object.defineProperty(window, 'navigation', { value: navigation, configurable: true });
  let path = '/a';
  const { tracker, changed } = track(() => path);
  tracker.track(true);
  path = '/b';
  navigation.dispatchEvent(new Event('currententrychange'));
  expect(changed.mock.calls).toEqual([['/a'], ['/b']]);
  tracker.track(false);
  path = '/c';
  navigation.dispatchEvent(new Event('currententrychange'));
  expect(changed).toHaveBeenCalledTimes(2);
  Reflect.deleteProperty(window, 'navigation');
});

test('does without a Navigation API that is something else', () => {
  Object.defineProperty(window, 'navigation', { value: { menu: 'main' }, configurable: true });
  const { tracker, changed } = track();
  tracker.track(true);
  tracker.track(false);
  expect(changed.mock.calls).toEqual([['/start']]);
  Reflect.deleteProperty(window, 'navigation');
});

test('reads the route again after the task, because routers change their state after the address', async () => {
  let state = '/products/:id';
  const { tracker, changed } = track(() => state);
  tracker.track(true);
  history.pushState(null, '', '/order/7');
  state = '/order/:id';
  await vi.waitFor(() => expect(changed).toHaveBeenLastCalledWith('/order/:id'));
});

test('an error while the route is read is reported, breaks no navigation, and the last route stays', () => {
  vi.useFakeTimers();
  let fails = false;
  const { tracker, changed } = track(() => {
    if (fails) throw new Error('no route');
    return location.pathname;
  });
  tracker.track(true);
  fails = true;
  history.pushState(null, '', '/a');
  expect(location.pathname).toBe('/a');
  expect(() => vi.runAllTimers()).toThrow('no route');
  expect(changed.mock.calls).toEqual([['/start']]);
  fails = false;
  tracker.check();
  expect(changed).toHaveBeenLastCalledWith('/a');
  vi.useRealTimers();
  tracker.track(false);
});

describe('the options', () => {
  function routesOf(options: HeadcountOptions, address: string) {
    const page = openPage({ updateStrategy: 'ws', ...options }, address);
    page.headcount.connect();
    page.stream.connects();
    return {
      ...page,
      sent: () => [page.stream.url.searchParams.get('route'), ...page.stream.sent.map((each: any) => each.route)],
    };
  }

  test.each([
    ['', '/'],
    ['#', '/'],
    ['#/x?y=secret#z', '/x'],
    ['#!/x/y', '/x/y'],
    ['#top', '/'],
  ])('routeTracking: hash, and the address ends with %j', (hash, route) => {
    expect(routesOf({ routeTracking: 'hash' }, `https://shop.example/app?q=1${hash}`).sent()).toEqual([route]);
  });

  test('routeTracking: hash follows the fragment and nothing else', () => {
    const page = routesOf({ routeTracking: 'hash' }, 'https://shop.example/app#/a');
    page.navigate('/app#/b?q=1');
    page.navigate('/app#/b?q=2');
    page.navigate('/elsewhere#/b');
    page.window.location.href = 'https://shop.example/app#/c';
    page.window.dispatchEvent(new Event('popstate'));
    expect(page.sent()).toEqual(['/a', '/b', '/c']);
  });

  test('setRoute understands what a hash router calls its path', () => {
    const page = routesOf({}, 'https://shop.example/app');
    page.headcount.setRoute('#/x?y');
    page.headcount.setRoute('/a/#b');
    page.headcount.setRoute('#');
    expect(page.sent().slice(1)).toEqual(['/x', '/a/', '/']);
  });

  test('route gives what is reported, with or without routeTracking', async () => {
    vi.useFakeTimers();
    let pattern: any = '/order/:id';
    const page = routesOf({ route: () => pattern }, 'https://shop.example/order/7');
    page.navigate('/order/8');
    pattern = '/cart';
    page.navigate('/cart');
    expect(page.sent()).toEqual(['/order/:id', '/cart']);
    pattern = undefined;
    page.navigate('/nowhere');
    expect(() => vi.runOnlyPendingTimers()).toThrow(TypeError);
    expect(page.sent()).toEqual(['/order/:id', '/cart']);
    pattern = '/new';
    page.headcount.reconnect();
    await settled();
    expect(page.streams.at(-1)!.url.searchParams.get('route')).toBe('/new');
    page.headcount.close();
    vi.useRealTimers();
  });

  test('a viewer reports no route', () => {
    expect(routesOf({ route: () => '/x', viewer: true }, 'https://shop.example/a').sent()).toEqual([null]);
  });
});
