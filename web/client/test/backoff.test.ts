import { expect, test, vi } from 'vitest';
import { backoffMs, toldMs } from '../src/backoff.js';

const backoff = { baseMs: 1000, capMs: 30_000 };

function draw(random: number, attempt: number) {
  vi.spyOn(Math, 'random').mockReturnValue(random);
  return backoffMs(attempt, backoff);
}

test('doubles the range with every attempt', () => {
  expect([0, 1, 2, 3].map((attempt) => draw(0.5, attempt))).toEqual([500, 1000, 2000, 4000]);
});

test('draws the jitter after the cap, so that late attempts are spread too', () => {
  expect(draw(0.5, 20)).toBe(15_000);
  expect(draw(0.999, 5000)).toBe(29_970);
});

test('never waits less than the floor', () => {
  expect(draw(0, 0)).toBe(100);
});

test('bounds what a server says, because timers fire at once for more than they can hold', () => {
  expect([0, 3120, 1e300].map(toldMs)).toEqual([0, 3120, 3_600_000]);
  expect([-1, NaN, '5', null, undefined, {}].map(toldMs)).toEqual(Array(6).fill(undefined));
});
