import type uPlot from 'uplot';
import { expect, test, vi } from 'vitest';

test('the time axis begins with two minutes and grows with what there is', async () => {
  // uPlot asks for the resolution of the screen as soon as it is imported.
  vi.stubGlobal('matchMedia', () => ({ addEventListener() {} }));
  const { timeScale } = await import('../src/chart');
  const range = timeScale.range as uPlot.Range.Function;
  const now = 1_795_854_000;
  const shown = (seconds: number) => range({} as uPlot, now - seconds, now, 'x');
  expect(shown(0)).toEqual([now - 120, now]);
  expect(shown(20)).toEqual([now - 120, now]);
  expect(shown(120)).toEqual([now - 120, now]);
  expect(shown(3600)).toEqual([now - 3600, now]);
});

test('a curve breaks off where samples are missing', async () => {
  vi.stubGlobal('matchMedia', () => ({ addEventListener() {} }));
  const { withGaps } = await import('../src/chart');
  const at = (...seconds: number[]) => seconds.map((second) => ({ at: second * 1000 }));
  const [a, b, c, d] = at(0, 10.4, 30, 90);
  expect(withGaps([a!, b!, c!, d!])).toEqual([
    { at: 0, sample: a },
    { at: 10_400, sample: b },
    { at: 30_000, sample: c },
    { at: 60_000, sample: undefined },
    { at: 90_000, sample: d },
  ]);
  expect(withGaps([])).toEqual([]);
});
