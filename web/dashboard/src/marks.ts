/** When which version became current: the marks in the charts. Tests: test/marks.test.ts, tests/e2e/test_dashboard.py. */
import type { Release } from 'headcount-client';
import uPlot from 'uplot';
import type { Colours } from './chart';
import { declaredAt } from './rollout';

export interface Mark {
  /** In ms since 1970. */
  at: number;
  version: string;
}

/** While a fleet is in doubt, versions may take turns; the newest marks say enough. */
const MAX_MARKS = 8;
/** Characters of a version that fit beside its line. */
const MAX_LABEL = 16;

/**
 * A mark stands where `current` of the samples changes from one version to another. Between two samples nobody knows when
 * that was, but a declaration has its own time.
 */
export function releaseMarks(
  samples: readonly { at: number; current?: string }[],
  release: Release | undefined,
  now: number,
): Mark[] {
  const marks: Mark[] = [];
  let before: string | undefined;
  for (const { at, current } of samples) {
    if (current === undefined) continue;
    if (before !== undefined && current !== before) marks.push({ at, version: current });
    before = current;
  }
  const declared = declaredAt(release, now);
  const version = release?.version;
  if (declared !== undefined && version !== undefined && samples[0] && declared >= samples[0].at) {
    const noted = marks.findIndex((mark) => mark.at >= declared && mark.version === version);
    if (noted >= 0) marks.splice(noted, 1);
    marks.push({ at: declared, version });
    marks.sort((one, other) => one.at - other.at);
  }
  return marks.slice(-MAX_MARKS);
}

export const label = (version: string) => (version.length > MAX_LABEL ? `…${version.slice(1 - MAX_LABEL)}` : version);

/** Draws a thin line for each mark, and the version beside it where there is room. */
export function drawMarks(chart: uPlot, marks: readonly Mark[], colour: Colours): void {
  const { ctx } = chart;
  const { left, top, width, height } = chart.bbox;
  const pixel = uPlot.pxRatio;
  const [from, to] = [chart.scales.x!.min ?? 0, chart.scales.x!.max ?? 0];
  ctx.save();
  ctx.font = `${11 * pixel}px system-ui, sans-serif`;
  ctx.textBaseline = 'middle';
  ctx.textAlign = 'left';
  /** No label may reach into the next one. */
  let end = left + width;
  for (const { at, version } of [...marks].reverse()) {
    if (at / 1000 < from || at / 1000 > to) continue;
    const x = Math.round(chart.valToPos(at / 1000, 'x', true));
    ctx.setLineDash([4 * pixel, 3 * pixel]);
    ctx.lineWidth = pixel;
    ctx.strokeStyle = colour('text');
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    const text = label(version);
    const room = ctx.measureText(text).width + 8 * pixel;
    const start = x + room <= end ? x : x - room;
    if (start < left || start + room > end) continue;
    ctx.fillStyle = colour('surface');
    ctx.fillRect(start + pixel, top + pixel, room - 2 * pixel, 16 * pixel);
    ctx.fillStyle = colour('text');
    ctx.fillText(text, start + 4 * pixel, top + 9 * pixel);
    end = start;
  }
  ctx.restore();
}
