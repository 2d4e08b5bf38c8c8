import type { Release } from 'headcount-client';
import { expect, test, vi } from 'vitest';
import { about, declaredAt, estimate, moment, origin, served, unaccounted } from '../src/rollout';

// The settings of a page, which is not there.
vi.mock('../src/server', () => ({ get: vi.fn() }));

const NOW = new Date(2026, 10, 28, 14, 30).getTime();
const declared = (number?: number): Release => ({ state: 'declared', version: 'v2', ...(number && { number }) });

test('a number of a release is a time only if it can be one', () => {
  const at = NOW - 60_000;
  expect(declaredAt(declared(at), NOW)).toBe(at);
  expect(declaredAt(declared(NOW + 80_000_000), NOW)).toBe(NOW + 80_000_000);
  for (const wrong of [undefined, 7, NOW + 90_000_000]) expect(declaredAt(declared(wrong), NOW)).toBeUndefined();
  expect(declaredAt({ ...declared(at), state: 'orphaned' }, NOW)).toBeUndefined();
  expect(declaredAt(undefined, NOW)).toBeUndefined();
});

test('a time of another day has its date', () => {
  const time = new Date(NOW).toLocaleTimeString([], { hour: 'numeric', minute: '2-digit' });
  expect(moment(NOW, NOW + 60_000)).toBe(time);
  expect(moment(NOW, NOW + 86_400_000)).toBe(`${new Date(NOW).toLocaleDateString()}, ${time}`);
});

test('a version says why it is current', () => {
  expect(origin(declared(NOW), NOW)).toBe(`declared ${moment(NOW, NOW)}`);
  expect(origin(declared(7), NOW)).toBe('declared');
  expect(origin({ state: 'settled', version: 'v2' }, NOW)).toBe('settled: every node serves it');
  expect(origin({ state: 'unsettled' }, NOW)).toBeUndefined();
});

test('an estimate is about as exact as it can be', () => {
  expect([400, 18_000, 88_000, 90_000, 300_000].map(about)).toEqual([
    'about 5 s',
    'about 20 s',
    'about 90 s',
    'about 2 minutes',
    'about 5 minutes',
  ]);
});

test('the pace is the one by which the estimate comes true', () => {
  const old = 400;
  const { left, why } = estimate(old, 60_000);
  expect(left).toBe('about 60 s');
  const perMinute = Number(why!.replace(/\D/g, ''));
  // A hundredth of a minute at this pace, again and again, each time of what is left.
  let rest = old;
  for (let step = 0; step < 100; step++) rest -= (perMinute / old) * rest * 0.01;
  expect(rest).toBeGreaterThan(0.3);
  expect(rest).toBeLessThan(0.7);
});

test('no estimate has a reason, and a pace of nearly nothing is left out', () => {
  expect(estimate(9, undefined)).toEqual({ left: 'not known', why: 'not enough data yet' });
  expect(estimate(9, Infinity)).toEqual({ left: 'not known', why: 'their number is not falling' });
  expect(estimate(1, 86_400_000)).toEqual({ left: 'about 24 hours' });
});

test('nodes that do not say what they serve are unknown', () => {
  expect(served({ reporting: 4, expected: 4, versions: { v1: 1, v2: 2 } })).toBe(
    'v2 (2 nodes), v1 (1 node), unknown (1 node)',
  );
  expect(served(undefined)).toBe('');
});

test('what is unaccounted for is never called less than it may be', () => {
  const absence = (total: number | null) => ({ node: 'a', total, state: 'cut-off', since: 0 });
  expect(unaccounted([])).toBeUndefined();
  expect(unaccounted([absence(1000), absence(3)])).toBe('1,003');
  expect(unaccounted([absence(120), absence(null)])).toBe('at least 120');
  expect(unaccounted([absence(null)])).toBe('not known');
});
