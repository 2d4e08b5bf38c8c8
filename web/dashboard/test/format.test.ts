import { expect, test } from 'vitest';
import { compact, duration, plural, share } from '../src/format';

const MINUTE = 60_000;

test('a number has its noun in singular or plural', () => {
  expect([plural(1, 'connection'), plural(0, 'connection'), plural(2000, 'node')]).toEqual([
    '1 connection',
    '0 connections',
    '2,000 nodes',
  ]);
});

test('the axis of a chart has short numbers', () => {
  expect([compact(950), compact(10_000)]).toEqual(['950', '10K']);
});

test('shares never show something as nothing, nor a part as all', () => {
  expect([share(0, 9), share(1, 1000), share(999, 1000), share(9, 9), share(1, 3), share(0, 0)]).toEqual([
    '0%',
    '<1%',
    '>99%',
    '100%',
    '33%',
    '0%',
  ]);
});

test.each([
  [139, 61],
  [1, 199],
  [199, 1],
  [3, 1],
  [2, 1],
])('of %i and %i the shares are 100%% together', (part, rest) => {
  const [a, b] = [share(part, part + rest), share(rest, part + rest)].map((text) =>
    Number.parseInt(text.replace(/[<>]/, ''), 10),
  );
  expect(a! + b!).toBe(100);
});

test('durations are in words', () => {
  expect([10_000, MINUTE, 89 * MINUTE, 3 * 60 * MINUTE, 80 * 60 * MINUTE].map(duration)).toEqual([
    'less than a minute',
    '1 minute',
    '89 minutes',
    '3 hours',
    '3 days',
  ]);
});
