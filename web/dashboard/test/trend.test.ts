import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { timeToGo } from '../src/trend';
import { duration, share } from '../src/words';

const MINUTE = 60_000;

/** The cases that tests/core/test_time_to_go.py reads too. */
const cases: {
  name: string;
  samples: [at: number, value: number][];
  bound: number;
  timeToGoMs: number | 'never' | null;
}[] = JSON.parse(readFileSync(join(import.meta.dirname, '../../../protocol/fixtures/time-to-go.json'), 'utf8'));

test.each(cases)('time to go: $name', ({ samples, bound, timeToGoMs }) => {
  const ms = timeToGo(
    samples.map(([at, value]) => ({ at, value })),
    bound,
  );
  if (typeof timeToGoMs === 'number') expect(ms! / 1000).toBeCloseTo(timeToGoMs / 1000, 3);
  else expect(ms).toBe(timeToGoMs === 'never' ? Infinity : undefined);
});

test('nothing less than half a page is waited for unless a bound is given', () => {
  const points = [64, 32, 16, 8, 4].map((value, index) => ({ at: index * MINUTE, value }));
  expect(timeToGo(points)! / MINUTE).toBeCloseTo(3, 5);
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
    Number.parseInt(text.replace(/[<>]/, '')),
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
