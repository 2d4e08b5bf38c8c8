// @vitest-environment jsdom
// @vitest-environment-options { "url": "https://shop.example/start?a=1#b" }
import { afterEach, expect, test, vi } from 'vitest';
import { createRouteTracker, type RouteTracker } from '../src/route.js';

const trackers: RouteTracker[] = [];

function track() {
  const changed = vi.fn();
  const tracker = createRouteTracker(window, changed);
  trackers.push(tracker);
  return { tracker, changed };
}

afterEach(() => {
  for (const tracker of trackers.splice(0).reverse()) tracker.stop();
  Reflect.deleteProperty(history, 'pushState');
  history.replaceState(null, '', '/start');
});

test('tells the path at the start, and then each other path once', () => {
  const { tracker, changed } = track();
  tracker.start();
  history.pushState({ x: 1 }, '', '/a?q=1#f');
  history.pushState(null, '', '/a?q=2');
  history.replaceState(null, '', '/b');
  history.replaceState(null, '');
  expect(changed.mock.calls).toEqual([['/start'], ['/a'], ['/b']]);
});

test('does the navigation itself as ever', () => {
  const { tracker } = track();
  tracker.start();
  history.pushState({ x: 1 }, '', '/a');
  expect(history.state).toEqual({ x: 1 });
  expect(() => history.pushState(null, '', 'https://other.example/')).toThrow();
  expect(location.pathname).toBe('/a');
});

test('hears of back and forward', async () => {
  const { tracker, changed } = track();
  tracker.start();
  history.pushState(null, '', '/a');
  history.back();
  await vi.waitFor(() => expect(changed).toHaveBeenLastCalledWith('/start'));
});

test('does not take another fragment for another route', async () => {
  const { tracker, changed } = track();
  tracker.start();
  changed.mockClear();
  const moved = new Promise((resolve) => addEventListener('hashchange', resolve, { once: true }));
  location.hash = '#elsewhere';
  await moved;
  expect(changed).not.toHaveBeenCalled();
});

test('leaves the History API as it found it', () => {
  const own = Object.getOwnPropertyNames(history);
  const { tracker, changed } = track();
  tracker.start();
  expect(history.pushState).not.toBe(History.prototype.pushState);
  tracker.stop();
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
  tracker.start();
  history.pushState(null, '', '/a');
  expect(theirs).toHaveBeenCalledOnce();
  tracker.stop();
  expect(history.pushState).toBe(theirs);
});

test('does not cut off who wrapped on top, and does not wrap again', () => {
  const { tracker, changed } = track();
  tracker.start();
  const ours = history.pushState;
  const theirs: typeof ours = function (this: History, ...entry) {
    return ours.apply(this, entry);
  };
  history.pushState = theirs;
  tracker.stop();
  expect(history.pushState).toBe(theirs);
  changed.mockClear();
  history.pushState(null, '', '/quiet');
  expect(changed).not.toHaveBeenCalled();
  tracker.start();
  expect(history.pushState).toBe(theirs);
  history.pushState(null, '', '/loud');
  expect(changed.mock.calls).toEqual([['/quiet'], ['/loud']]);
});

test('wraps once, however often it is started, and beside others of its kind', () => {
  const [a, b] = [track(), track()];
  a.tracker.start();
  b.tracker.start();
  a.tracker.start();
  history.pushState(null, '', '/a');
  for (const { changed } of [a, b]) expect(changed.mock.calls).toEqual([['/start'], ['/a']]);
  b.tracker.stop();
  a.tracker.stop();
  expect(history.pushState).toBe(History.prototype.pushState);
});
