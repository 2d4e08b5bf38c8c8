/**
 * When a client opens its next stream. protocol/README.md, "Reconnecting", has the rule; src/headcount/core/reconnect.py
 * is the same in Python, and protocol/fixtures/reconnect.json tests both. Each function takes a random number from 0 to 1
 * and returns a delay in ms; the caller has the clock, the stream and the attempt count.
 */

/** Both in milliseconds. */
export interface Backoff {
  /** Upper bound of the first delay; it doubles with every further attempt. */
  baseMs: number;
  /** No delay is drawn from a longer range. */
  capMs: number;
}

/** Keeps a lucky draw from becoming a busy loop. */
const FLOOR_MS = 100;

/** Timers take at most 2^31-1 ms and fire at once for more; a server that names more than this is mistaken anyway. */
const LONGEST_MS = 3_600_000;

/** A stream that was open this long was no part of a crash loop. */
const STABLE_MS = 30_000;

/**
 * A restart or a Retry-After reaches many clients at once and is over soon: the delay is drawn from 2^2 times the first
 * range at least, about what a draining server would say.
 */
const RESTART_ATTEMPT = 2;

/** Overload lasts longer than a restart: delays are drawn from 2^3 times the first range at least, and grow from it. */
const OVERLOAD_ATTEMPT = 3;

const RESTARTING = 1012;
const OVERLOADED = 1013;

/**
 * The jitter is drawn after the cap. The other way round every client that has waited long enough waits exactly `capMs`,
 * and a server that comes back is met by all of them at once.
 */
export function backoffMs(attempt: number, { baseMs, capMs }: Backoff, random = Math.random()): number {
  return Math.max(FLOOR_MS, random * Math.min(capMs, baseMs * 2 ** attempt));
}

/**
 * What follows the end of a stream, or a failure to open one. Not for an end that `drain` announced: `afterDrainMs` gives
 * its delay, and the attempt count is 0 from then on. Not for 1008 either, after which a client does not come back.
 *
 * @param openMs For how long the stream was open; 0 if it never opened.
 * @param namedMs What the server named in Retry-After or `retry:`; 0 if it named nothing.
 * @returns The delay, and the attempt count from then on.
 */
export function afterEnd(
  attempt: number,
  openMs: number,
  code: number | undefined,
  namedMs: number,
  backoff: Backoff,
  random?: number,
): [delayMs: number, attempt: number] {
  const failures = Math.max(openMs >= STABLE_MS ? 0 : attempt, code === OVERLOADED ? OVERLOAD_ATTEMPT : 0);
  const drawnAs = Math.max(failures, code === RESTARTING || namedMs ? RESTART_ATTEMPT : 0);
  return [namedMs + backoffMs(drawnAs, backoff, random), failures + 1];
}

/** The delay that a `drain` message asks for, from its arrival. `random` is used only where the server did not draw. */
export function afterDrainMs(reconnectMs: unknown, backoff: Backoff, random?: number): number {
  return Math.max(FLOOR_MS, boundedMs(reconnectMs) ?? backoffMs(RESTART_ATTEMPT, backoff, random));
}

/** A duration that a server named, or undefined if it is none. */
export function boundedMs(value: unknown): number | undefined {
  return typeof value === 'number' && value >= 0 ? Math.min(value, LONGEST_MS) : undefined;
}

/** The Retry-After header: seconds or a date; 0 when there is neither, or when another origin does not show it. */
export function retryAfterMs(response: Response | undefined): number {
  // Without a header the number is 0, and without a response it is none.
  const value = response?.headers.get('retry-after') as string;
  return boundedMs(+value * 1000) ?? boundedMs(Date.parse(value) - Date.now()) ?? 0;
}
