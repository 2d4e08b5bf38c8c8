import { expect, test, vi } from 'vitest';
import { clock } from '../src/format';
import { linesOf, nearest, sentenceOf, step } from '../src/moments';
import { REST } from '../src/versions';

// The settings of a page, which is not there.
vi.mock('../src/server', () => ({ get: vi.fn() }));

const AT = 1_795_854_000_000;
const sample = { at: AT, total: 200, versions: { v1: 50, v2: 140, old: 10 } };

test('a moment has the versions in the order of the chart, and the others together', () => {
  expect(linesOf(sample, ['v2', 'v1', 'v0']).map(({ name, open, share }) => [name, open, share])).toEqual([
    ['v2', 140, '70%'],
    ['v1', 50, '25%'],
    ['others', 10, '5%'],
  ]);
  expect(linesOf(sample, ['v2', REST]).map(({ name, open }) => [name, open])).toEqual([
    ['v2', 140],
    ['others', 60],
  ]);
});

test('a sentence describes a moment, and says when it has no figures or partial ones', () => {
  expect(sentenceOf(AT, sample, ['v2', 'v1', 'old'])).toBe(`${clock(AT)}: 200 connections; v2 70%, v1 25%, old 5%`);
  expect(sentenceOf(AT, { ...sample, partial: true }, ['v2'])).toBe(
    `${clock(AT)}: 200 connections, partial; v2 70%, others 30%`,
  );
  expect(sentenceOf(AT, { at: AT, total: 0, versions: {} }, ['v2'])).toBe(`${clock(AT)}: 0 connections`);
  expect(sentenceOf(AT, undefined, ['v2'])).toBe(`${clock(AT)}: no figures`);
});

test('the nearest moment is the one that is pointed at', () => {
  const points = [{ at: 0 }, { at: 10 }, { at: 40 }];
  expect([-5, 4, 6, 26, 99].map((at) => nearest(points, at))).toEqual([0, 0, 1, 2, 2]);
  expect(nearest([], 5)).toBe(-1);
});

test('keys lead from moment to moment and not beyond', () => {
  expect(['ArrowLeft', 'ArrowRight', 'PageUp', 'PageDown', 'Home', 'End'].map((key) => step(key, 50, 60))).toEqual([
    49, 51, 60, 20, 0, 60,
  ]);
  expect([step('ArrowLeft', 0, 60), step('ArrowRight', 60, 60)]).toEqual([0, 60]);
  expect(step('Tab', 5, 60)).toBeUndefined();
});
