/** How long until the old versions are gone. Values in, values out. */

export interface Point {
  /** In ms since 1970. */
  at: number
  value: number
}

/** What is older says little about what happens now. */
const WINDOW_MS = 15 * 60_000
const LEAST_POINTS = 4
/** Whoever is longer away than this is not waited for. */
const FURTHEST_MS = 7 * 24 * 3_600_000

/**
 * Old pages leave as people close or reload them, each with about the same chance in each minute, so what is left shrinks
 * by a factor and not by a number. A line through the logarithms gives the factor; gone is when less than half a page is
 * left.
 *
 * @returns Milliseconds; 0 when none is left, undefined when they do not become fewer or too little is known.
 */
export function timeToGo(points: readonly Point[]): number | undefined {
  const last = points.at(-1)
  if (!last) return undefined
  if (last.value === 0) return 0
  const recent = points.filter(({ at }) => at >= last.at - WINDOW_MS)
  // Only since it was highest: before that, this version was still the new one.
  const top = recent.reduce((best, { value }, index) => (value >= recent[best]!.value ? index : best), 0)
  const falling = recent.slice(top).filter(({ value }) => value > 0)
  if (falling.length < LEAST_POINTS) return undefined
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  const times = falling.map(({ at }) => at - last.at)
  const logs = falling.map(({ value }) => Math.log(value))
  const [time, log] = [mean(times), mean(logs)]
  const slope =
    times.reduce((sum, at, index) => sum + (at - time) * (logs[index]! - log), 0) /
    times.reduce((sum, at) => sum + (at - time) ** 2, 0)
  if (!(slope < 0)) return undefined
  const left = (Math.log(0.5) - Math.log(last.value)) / slope
  return left < FURTHEST_MS ? left : undefined
}
