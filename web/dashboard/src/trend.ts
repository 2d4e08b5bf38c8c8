/**
 * How long until the old versions are gone. protocol/README.md, "Time to go", has the rule;
 * src/headcount/core/time_to_go.py is the same in Python, and protocol/fixtures/time-to-go.json tests both.
 */

export interface Point {
  /** In ms since 1970. */
  at: number;
  value: number;
}

/** Older points say little about the present. */
const WINDOW_MS = 15 * 60_000;
const LEAST_POINTS = 4;
/** The points must cover this long. */
const LEAST_SPAN_MS = 10_000;
/** What is further away than this is never. */
const FURTHEST_MS = 7 * 24 * 3_600_000;

/**
 * Old pages leave as visitors close or reload them, each page with about the same chance in each minute, so the number
 * shrinks by a factor and not by an amount. A line through the logarithms gives the factor. The bound is reached when
 * less than half a page more is left.
 *
 * @param points Oldest first.
 * @param bound How many may be left.
 * @returns Milliseconds; 0 when the bound is reached, Infinity when the number does not shrink, undefined when there is
 *   not enough data.
 */
export function timeToGo(points: readonly Point[], bound = 0): number | undefined {
  const last = points.at(-1);
  if (!last) return undefined;
  if (last.value <= bound) return 0;
  const isEnough = (some: readonly Point[]) => some.length >= LEAST_POINTS && last.at - some[0]!.at >= LEAST_SPAN_MS;
  const recent = points.filter(({ at }) => at >= last.at - WINDOW_MS);
  // Only since the number was highest: before that, the old version was still the new one.
  const highest = recent.reduce((best, { value }, index) => (value >= recent[best]!.value ? index : best), 0);
  const falling = recent.slice(highest).filter(({ value }) => value > 0);
  if (!isEnough(falling)) return highest === recent.length - 1 && isEnough(recent) ? Infinity : undefined;
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const times = falling.map(({ at }) => at - last.at);
  const logs = falling.map(({ value }) => Math.log(value));
  const [time, log] = [mean(times), mean(logs)];
  const slope =
    times.reduce((sum, at, index) => sum + (at - time) * (logs[index]! - log), 0) /
    times.reduce((sum, at) => sum + (at - time) ** 2, 0);
  const left = slope < 0 ? Math.log(last.value / (bound + 0.5)) / -slope : Infinity;
  return left < FURTHEST_MS ? left : Infinity;
}
