import type { Release } from 'headcount-client';
import { expect, test, vi } from 'vitest';

// uPlot asks for the resolution of the screen as soon as it is imported, and there is no page.
vi.stubGlobal('matchMedia', () => ({ addEventListener() {} }));
vi.mock('../src/server', () => ({ get: vi.fn() }));
const { label, releaseMarks } = await import('../src/marks');

const START = 1_795_854_000_000;
const samples = (...currents: (string | undefined)[]) =>
  currents.map((current, index) => ({ at: START + index * 10_000, ...(current !== undefined && { current }) }));
const marks = (found: ReturnType<typeof samples>, release?: Release) =>
  releaseMarks(found, release, START + 3_600_000).map(({ at, version }) => [(at - START) / 1000, version]);
const declared = (seconds: number, version = 'v2'): Release => ({
  state: 'declared',
  version,
  number: START + seconds * 1000,
});

test('a mark stands where another version became current', () => {
  expect(marks(samples('v1', 'v1', 'v2', 'v2', 'v1'))).toEqual([
    [20, 'v2'],
    [40, 'v1'],
  ]);
  expect(marks([])).toEqual([]);
});

test('a version that was not known for a while was not released again', () => {
  expect(marks(samples(undefined, 'v1', undefined, 'v1', undefined, 'v2'))).toEqual([[50, 'v2']]);
});

test('a declaration stands at its own time, once', () => {
  expect(marks(samples('v1', 'v1', 'v2'), declared(12))).toEqual([[12, 'v2']]);
  expect(marks(samples('v1', 'v1'), declared(12)), 'before a sample has it').toEqual([[12, 'v2']]);
  expect(marks(samples('v1', 'v2', 'v1', 'v2'), declared(28))).toEqual([
    [10, 'v2'],
    [20, 'v1'],
    [28, 'v2'],
  ]);
});

test('a declaration before the first sample is not in the chart', () => {
  expect(marks(samples('v2', 'v2'), declared(-60))).toEqual([]);
  expect(marks(samples('v1', 'v2'), { state: 'settled', version: 'v2', number: 1 })).toEqual([[10, 'v2']]);
});

test('marks are bounded, and the newest stay', () => {
  const found = marks(samples(...Array.from({ length: 100 }, (_, index) => `v${index}`)));
  expect(found.length).toBe(8);
  expect(found.at(-1)).toEqual([990, 'v99']);
});

test('of a long version the end is shown, which tells it from others', () => {
  expect(label('2026.11.4')).toBe('2026.11.4');
  expect(label('0123456789abcdef')).toBe('0123456789abcdef');
  expect(label('release-2026.11.28-af31')).toBe('…2026.11.28-af31');
});
