/** What a chart says of one moment. Tests: test/moments.test.ts, tests/e2e/test_dashboard.py. */
import { clock, plural, share } from './format';
import type { Sample } from './history';
import { openOf, REST } from './versions';

export interface Line {
  name: string;
  version: string;
  open: number;
  share: string;
}

/** The versions that had connections at that moment, in the order of the chart. */
export function linesOf(sample: Sample, names: readonly string[]): Line[] {
  // A version that is not in sight now may have been larger at that moment than those that are.
  const all = names.includes(REST) ? names : [...names, REST];
  return all.flatMap((version) => {
    const open = openOf(sample.versions, version, names);
    if (!open) return [];
    return [{ name: version === REST ? 'others' : version, version, open, share: share(open, sample.total) }];
  });
}

/** "2:02:11 PM: 10,000 connections; 2026.11.4 67%, 2026.11.3 33%", for screen readers. */
export function sentenceOf(at: number, sample: Sample | undefined, names: readonly string[]): string {
  if (!sample) return `${clock(at)}: no figures`;
  const lines = linesOf(sample, names).map((line) => `${line.name} ${line.share}`);
  const partial = sample.partial ? ', partial' : '';
  return `${clock(at)}: ${plural(sample.total, 'connection')}${partial}${lines.length ? `; ${lines.join(', ')}` : ''}`;
}

/** The index of the moment that is nearest to a time; -1 without any. */
export function nearest(points: readonly { at: number }[], at: number): number {
  return points.reduce(
    (best, point, index) => (best < 0 || Math.abs(point.at - at) <= Math.abs(points[best]!.at - at) ? index : best),
    -1,
  );
}

/** Where a key leads from one moment to another; undefined: the key is not for the chart. */
export function step(key: string, index: number, last: number): number | undefined {
  const to = {
    ArrowLeft: index - 1,
    ArrowDown: index - 1,
    ArrowRight: index + 1,
    ArrowUp: index + 1,
    PageDown: index - 30,
    PageUp: index + 30,
    Home: 0,
    End: last,
  }[key];
  return to === undefined ? undefined : Math.min(last, Math.max(0, to));
}
