import { expect, test, vi } from 'vitest';
import { aligned, compared, horizon, type Rollout, reached, short, shown, typical, verdict } from '../src/adoption';

// The settings of a page, which is not there.
vi.mock('../src/server', () => ({ get: vi.fn() }));

const MINUTE = 60_000;

function rollout(
  version: string,
  times: number[],
  state: Rollout['state'],
  on = 100,
  more: Partial<Rollout> = {},
): Rollout {
  return {
    version,
    at: 0,
    declared: true,
    state,
    reached: times.map((afterMs, index) => ({ percent: [50, 90, 99][index]!, afterMs })),
    curve: [
      { afterMs: 0, on: 0, total: 100 },
      { afterMs: times.at(-1) ?? MINUTE, on, total: 100 },
    ],
    ...more,
  };
}

const done = (version: string, factor: number) =>
  rollout(version, [factor * MINUTE, 2 * factor * MINUTE, 4 * factor * MINUTE], 'done');
const EARLIER = [6, 5, 4, 3, 2, 1].map((factor) => done(`v${factor}`, factor));
const newest = rollout('v9', [30_000], 'running', 89);

test('the newest is compared with the last five that were done', () => {
  const others = compared([newest, rollout('v8', [MINUTE], 'replaced'), ...EARLIER]);
  expect(others.map(({ version }) => version)).toEqual(['v6', 'v5', 'v4', 'v3', 'v2']);
  expect(typical(others, 50)).toBe(4 * MINUTE);
  expect(typical(EARLIER.slice(0, 2), 99)).toBe(22 * MINUTE);
  expect(typical([], 50)).toBeUndefined();
});

test('times that are long are not sorted as text', () => {
  expect(typical([done('a', 100), done('b', 20), done('c', 3)], 50)).toBe(20 * MINUTE);
});

test('the verdict says what is next and how long that usually takes', () => {
  expect(verdict(newest, EARLIER.slice(0, 5))).toBe(
    'v9: running, 89% of connections are on it. 90% usually took 8 min.',
  );
  expect(verdict(newest, [])).toBe('v9: running, 89% of connections are on it.');
  expect(verdict(EARLIER[0]!, EARLIER.slice(1))).toBe('v6: done, 100% of connections are on it.');
});

test('a share is never rounded up to what is not reached, and no connections are no share', () => {
  const curve = [{ afterMs: 1, on: 98_999, total: 100_000 }];
  expect(verdict({ ...newest, curve }, [])).toContain('98.9% of connections');
  const nobody = { ...newest, curve: [{ afterMs: 1, on: 0, total: 0 }] };
  expect(verdict(nobody, [])).toBe('v9: running, not known yet how many connections are on it.');
  expect(verdict({ ...newest, curve: [] }, [])).toContain('not known yet');
});

test('a time that may have been earlier says so, and one that was not reached is none', () => {
  expect(shown({ afterMs: 30_000, partial: true })).toBe('<30 s');
  expect(shown(reached(newest, 50))).toBe('30 s');
  expect(shown(reached(newest, 90))).toBe('–');
  expect([0, 9_960, 119_000, 120_000, 210_000, 7_200_000, 432_000_000].map(short)).toEqual([
    '0 s',
    '10 s',
    '119 s',
    '2 min',
    '3.5 min',
    '2 h',
    '5 d',
  ]);
});

test('the axis ends after the newest and after what is usual, and not with a tail of days', () => {
  expect(horizon(newest, [])).toBe(2 * MINUTE);
  expect(horizon(newest, EARLIER.slice(0, 5))).toBeCloseTo(1.1 * 16 * MINUTE);
  const tail = { ...done('v9', 1), curve: [{ afterMs: 9e8, on: 100, total: 100 }] };
  expect(horizon(tail, [])).toBeCloseTo(1.1 * 4 * MINUTE);
});

test('each curve has its shares at its own times, up to the end of the axis', () => {
  const one = { ...newest, curve: [0, 20, 60, 500].map((s) => ({ afterMs: s * 1000, on: s, total: 500 })) };
  const other = { ...newest, curve: [0, 30].map((s) => ({ afterMs: s * 1000, on: s, total: s ? 60 : 0 })) };
  expect(aligned([one, other], 100_000)).toEqual([
    [0, 20, 30, 60],
    [0, 4, null, 12],
    [null, null, 50, null],
  ]);
});
