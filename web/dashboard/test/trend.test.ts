import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { timeToGo } from '../src/trend';

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
