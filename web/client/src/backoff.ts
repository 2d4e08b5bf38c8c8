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

/**
 * A stream that delivered and was open this long was no part of a crash loop. If it ends, the server or a proxy ended it;
 * load balancers end streams after 10 s and more, and a page that waits longer each time is hardly counted.
 */
export const STABLE_MS = 2000;

/** The same for a stream that the server ended with a close code of its own, such as 4400. */
const FAULT_STABLE_MS = 30_000;

/** What refused a client twice, such as a wrong path, is asked again no sooner than this. */
const REFUSED_MS = 30_000;

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
 * @param refused What answered refused the stream for a reason that does not pass (`isRefusal`), and this page has never
 *   had one. A page that had one meets a server that restarts.
 * @returns The delay, and the attempt count from then on.
 */
export function afterEnd(
  attempt: number,
  openMs: number,
  code: number,
  namedMs: number,
  refused: boolean,
  backoff: Backoff,
  random?: number,
): [delayMs: number, attempt: number] {
  const isStable = openMs >= (isCut(code) ? STABLE_MS : FAULT_STABLE_MS);
  const failures = Math.max(isStable ? 0 : attempt, code === OVERLOADED ? OVERLOAD_ATTEMPT : 0);
  const waitMs = refused && attempt ? Math.max(namedMs, REFUSED_MS) : namedMs;
  const drawnAs = Math.max(failures, code === RESTARTING || waitMs ? RESTART_ATTEMPT : 0);
  return [waitMs + backoffMs(drawnAs, backoff, random), failures + 1];
}

/**
 * Whether an answer that is not the one asked for would be the same the next time: a wrong path, a page in place of a stream.
 *
 * @param status 200 means that it was not Headcount's; static file servers answer a POST with 501. The codes of WebSockets are above all statuses; 0 is none.
 */
export function isRefusal(status: number): boolean {
  return /^(2..|4(?!01|08|2[59])..|501)$/.test(status as never);
}

/**
 * Whether a stream that ended with this close code may have been ended from outside: by a proxy, the network, a crash. Only the server
 * has the others (src/headcount/core/ends.py). Those from 4000 on may come reduced by 3000 (transport.ts).
 */
export function isCut(code: number): boolean {
  return !/^[14](00[28]|01[23]|4..)$/.test(code as never);
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
