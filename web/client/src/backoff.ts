/** Both in milliseconds. */
export interface Backoff {
  /** Upper bound of the first delay; it doubles with every further attempt. */
  baseMs: number;
  /** No delay is longer. */
  capMs: number;
}

/** Keeps a lucky draw from becoming a busy loop. */
const FLOOR_MS = 100;

/** Timers take at most 2^31-1 ms and fire at once for more; a server that says more than this is mistaken anyway. */
const LONGEST_MS = 3_600_000;

/**
 * The jitter is drawn after the cap. The other way round everybody who has waited long enough waits exactly `capMs`,
 * and a server that comes back is met by all of them at once.
 */
export function backoffMs(attempt: number, { baseMs, capMs }: Backoff): number {
  return Math.max(FLOOR_MS, Math.random() * Math.min(capMs, baseMs * 2 ** attempt));
}

/** A delay that a server asked for; undefined if it is none. */
export function toldMs(value: unknown): number | undefined {
  return typeof value === 'number' && value >= 0 ? Math.min(value, LONGEST_MS) : undefined;
}
