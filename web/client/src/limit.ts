/**
 * Where something between the page and the server ends all streams after the same time: finds that limit, and says when to
 * open the next stream, which connection.ts does. protocol/README.md, "A regular limit", has the rule; src/headcount/core/reconnect.py is the same in
 * Python, and protocol/fixtures/reconnect.json tests both.
 *
 * Tests: test/connection.test.ts, test/backoff.test.ts.
 */
import { STABLE_MS } from './backoff.js';

/**
 * By how much lives may differ and still be equal. A proxy's limit is exact; the time until its end is noticed, and a busy
 * page, add some 100 ms.
 */
const TOLERANCE_MS = 500;

/** By how much lives may differ that show a limit although the times from end to end are equal, too. */
const ALIKE_MS = 50;

/** A limit is forgotten when a stream lives so many times longer. Less may be a page that was busy when it ended. */
const OUTLIVED = 1.25;

/** A stream is renewed this long before a known limit, or a tenth of the limit, and up to twice as early. */
const LEAD_MS = 1000;

/** After so many renewals, one stream runs on to its end, because nothing else shows that the limit is gone. */
const RENEWALS = 10;

export interface Limit {
  /**
   * A stream has ended and nothing took over from it.
   *
   * @param openMs For how long it was open; 0 if it did not open, or was not cut (`isCut`).
   */
  ended(now: number, openMs: number): void;
  /** After how many ms streams are ended; 0: no limit is known. */
  cutMs(): number;
  /** When to renew a stream that has just opened, in ms from now; 0: it stays to its end. */
  renewMs(random?: number): number;
}

/**
 * A server that restarts regularly is no limit. Then all streams end at the same time, whenever they were opened: the times
 * from end to end are equal, and lives differ by the jitter of reconnecting. With a limit it is the other way round.
 * In a background tab both are equal, because browsers round its delays up to whole seconds. There, five lives show a limit
 * if each is very like the one before.
 */
export function createLimit(): Limit {
  let cutMs = 0;
  let equal = 0;
  let alike = 0;
  let lastMs = 0;
  let periodMs: number;
  let endedAt: number;
  let renewals = 0;

  return {
    cutMs: () => cutMs,
    ended(now, openMs) {
      const apartMs = Math.abs(openMs - lastMs);
      const lastPeriodMs = periodMs;
      periodMs = now - endedAt;
      endedAt = now;
      lastMs = openMs;
      if (openMs > cutMs * OUTLIVED + TOLERANCE_MS) cutMs = 0;
      equal = openMs >= STABLE_MS && apartMs <= TOLERANCE_MS ? equal + 1 : 0;
      alike = apartMs <= ALIKE_MS ? alike + 1 : 0;
      // Without a period, the comparison is one with NaN.
      if (equal > 1 && (alike > 3 || apartMs < Math.abs(periodMs - lastPeriodMs))) cutMs = openMs;
    },
    renewMs(random = Math.random()) {
      if (!cutMs || renewals++ >= RENEWALS) return (renewals = 0);
      return Math.max(cutMs / 2, cutMs - Math.max(LEAD_MS, cutMs / 10) * (1 + random));
    },
  };
}
