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
/** A point that is so much older than another counts half as much: what leaves now is shown by the newest. */
const HALF_WEIGHT_MS = 60_000;
/**
 * A number of at least this part of its highest is near it: the number of a site's visitors varies by about so much while
 * nothing happens.
 */
const NEAR = 0.95;
/** A number shrinks if its line falls by more than so many of the slope's standard errors. */
const CERTAINTY = 2;
/** What is further away than this is never. */
const FURTHEST_MS = 7 * 24 * 3_600_000;

/**
 * Old pages leave as visitors close or reload them, each page with about the same chance in each minute, so the number
 * shrinks by a factor and not by an amount. A line through the logarithms, in which newer points have more weight, gives the
 * factor. The bound is reached when less than half a page more is left.
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
  const falling = recent.slice(beginning(recent)).filter(({ value }) => value > 0);
  if (!isEnough(falling)) {
    return recent.every(({ value }) => value <= last.value) && isEnough(recent) ? Infinity : undefined;
  }
  const left = Math.log(last.value / (bound + 0.5)) / weightedFall(falling, last.at);
  return left < FURTHEST_MS ? left : Infinity;
}

/**
 * Where the fall begins: the last point near the highest. Before it, the old version was still the new one. While the newest
 * is near the highest itself, the fall may be a slow one, and begins with the highest.
 */
function beginning(points: readonly Point[]): number {
  const highest = points.reduce((best, { value }, index) => (value >= points[best]!.value ? index : best), 0);
  const least = points[highest]!.value * NEAR;
  const near = points.reduce((last, { value }, index) => (value >= least ? index : last), 0);
  return near === points.length - 1 ? highest : near;
}

/** By how much the line through the logarithms falls in a millisecond; 0 when it does not, or not for certain. */
function weightedFall(points: readonly Point[], now: number): number {
  const weighted = points.map(({ at, value }) => ({
    at: at - now,
    log: Math.log(value),
    weight: 2 ** ((at - now) / HALF_WEIGHT_MS),
  }));
  const sum = (of: (point: (typeof weighted)[number]) => number) =>
    weighted.reduce((total, point) => total + of(point), 0);
  const total = sum(({ weight }) => weight);
  const time = sum(({ weight, at }) => weight * at) / total;
  const mean = sum(({ weight, log }) => weight * log) / total;
  const spread = sum(({ weight, at }) => weight * (at - time) ** 2);
  const fall = -sum(({ weight, at, log }) => weight * (at - time) * (log - mean)) / spread;
  // Standard error: that of as many equal points as the weighted ones are worth.
  const missed = sum(({ weight, at, log }) => weight * (log - mean + fall * (at - time)) ** 2);
  const error = Math.sqrt((missed / spread) * sum(({ weight }) => weight ** 2)) / total;
  return fall > CERTAINTY * error ? fall : 0;
}
