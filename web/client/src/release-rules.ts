/**
 * Decides when a page that is not of the current version reloads, and how often. Pure: no browser, no clock, no storage.
 *
 * - The *target* is what the page wants to get away to: the current version, or, after a part of the page's own version could
 *   not be loaded, any other one. Without a target nothing happens.
 * - A reload is recorded before it happens, and the record outlives it. A page that still has the same target after
 *   a reload was not brought there: it waits, longer each time, and gives up after the third.
 * - A target that the tab knows already does not get new reloads, unless it is of a newer release than all that the tab was
 *   reloaded for. So two servers that name two versions in turn cost a bounded number of reloads, and a version that
 *   is released again, as after a roll-back, gets three of its own. Servers that do not number releases get three for a version.
 * - Before a reload the page checks whether the target is being served to it. A check that fails costs no reload, so the page
 *   goes on checking, with growing delays, for as long as a rolling update takes.
 */

export type Mode = 'prompt' | 'next-navigation' | 'hidden' | 'idle' | 'immediate';

/** Why there is no reload now; the first five are guards. */
export type Reason =
  | 'guard'
  | 'form'
  | 'media'
  | 'dialog'
  | 'beforeunload'
  /** The storage is forbidden: the page could not know how often it has reloaded. */
  | 'storage'
  /** The last reload brought another version than the target, and the next one is due later. */
  | 'early'
  /** Three reloads brought another version than the target. */
  | 'exhausted'
  /** The server, a cache or a service worker still delivers another version. */
  | 'unserved'
  /** The page is of the current version, or the current version is not known. */
  | 'current'
  /** `close()` was called. */
  | 'closed';

/** What a tab keeps of its reloads, across them. */
export interface ReloadRecord {
  readonly reloads: number;
  /** Milliseconds since 1970 of the last one. */
  readonly at: number;
  /** The targets of these reloads and the versions that they left, the newest last. */
  readonly seen: readonly string[];
  /** Number of the newest release among them; undefined: none had one. */
  readonly release?: number | undefined;
  /** The last reload was for a release without a number, which may be newer than that. */
  readonly unnumbered?: boolean | undefined;
}

/** What a page intends about one target. */
export interface Plan {
  readonly target: string | undefined;
  /** Number of the release that it is of; undefined: the server does not say. */
  readonly release: number | undefined;
  /** When to check next whether the target is served, in milliseconds since 1970. */
  readonly checkAt: number;
  /** Checks that failed. */
  readonly failedChecks: number;
  /** The last check succeeded: the next navigation may go there. */
  readonly armed: boolean;
}

export interface Situation {
  readonly mode: Mode;
  readonly hidden: boolean;
  /** How long nobody has touched the page. */
  readonly idleMs: number;
  /** A part of the page is missing, so that it does not work. */
  readonly missing: boolean;
}

/** Delay after the first reload that did not bring the target, and after the second. There is no fourth. */
const DELAYS_MS = [30_000, 300_000];
const SEEN = 16;
const IDLE_MS = 60_000;
const CHECK_BASE_MS = 10_000;
const CHECK_CAP_MS = 300_000;

/** null while the current version, or the page's own, is not known. */
export function isOutdated(mine: string, current: string | undefined): boolean | null {
  return mine && current ? mine !== current : null;
}

/** No version begins with a space, so the target of a page that misses a part is none that a server could name. */
export function targetOf(mine: string, current: string | undefined, missing: boolean): string | undefined {
  return isOutdated(mine, current) ? current : missing ? ' ' + mine : undefined;
}

export function planFor(target: string | undefined, release: number | undefined, checkAt: number): Plan {
  return { target, release, checkAt, failedChecks: 0, armed: false };
}

/** Reads what was stored. What is no record is none: the tab has not reloaded. */
export function readRecord(text: string): ReloadRecord {
  try {
    const { reloads, at, seen, release, unnumbered } = JSON.parse(text);
    if (reloads > 0 && at > 0 && Array.isArray(seen))
      return { reloads, at, seen, release: typeof release === 'number' ? release : undefined, unnumbered };
  } catch {}
  return { reloads: 0, at: 0, seen: [] };
}

/** Comparison with a release that is not known is false: a version without a number may be of the release that was counted. */
export function isNewer(release: number | undefined, than: number | undefined): boolean {
  return release! > than!;
}

/** How many reloads count against the target of this plan. */
function spent(record: ReloadRecord, { target, release }: Plan): number {
  const isCounted = record.unnumbered || !isNewer(release, record.release);
  return isCounted && record.seen.includes(target!) ? record.reloads : 0;
}

/** Whether the earlier reloads forbid one now. A clock that was set back ends a delay; the number is the bound. */
export function judgeRecord(record: ReloadRecord, plan: Plan, now: number): 'early' | 'exhausted' | undefined {
  const reloads = spent(record, plan);
  if (reloads > DELAYS_MS.length) return 'exhausted';
  const elapsed = now - record.at;
  if (reloads && elapsed >= 0 && elapsed < DELAYS_MS[reloads - 1]!) return 'early';
}

export function afterReload(record: ReloadRecord, mine: string, plan: Plan, now: number): ReloadRecord {
  return {
    reloads: spent(record, plan) + 1,
    at: now,
    seen: [...record.seen, mine, plan.target!].slice(-SEEN),
    release: isNewer(record.release, plan.release) ? record.release : (plan.release ?? record.release),
    unnumbered: plan.release === undefined,
  };
}

/** `random` is in [0, 1): pages must not check all at once. */
export function afterCheck(plan: Plan, served: boolean, now: number, random: number): Plan {
  const { failedChecks } = plan;
  const delayMs = Math.min(CHECK_CAP_MS, CHECK_BASE_MS * 2 ** failedChecks) * (0.5 + random);
  return served ? { ...plan, armed: true } : { ...plan, failedChecks: failedChecks + 1, checkAt: now + delayMs };
}

/** Whether the mode lets the page reload by itself now. A page that misses a part is not made to wait for a navigation. */
export function mayReload({ mode, hidden, idleMs, missing }: Situation): boolean {
  return (
    mode === 'immediate' ||
    (mode === 'next-navigation' && missing) ||
    (hidden ? mode === 'hidden' || mode === 'idle' : mode === 'idle' && idleMs >= IDLE_MS)
  );
}

// A document is a stranger's: each of these reads it in one pass, whatever is in it. So no two repetitions of an expression
// match the same text, and a tag ends at the next `<`.
const META = /<meta\s+name="?headcount-version"?\s+content="?([^"\s>]+)/;
const SCRIPT = /<script\s(?:[^<>]*?\s)?src=["']?([^"'\s<>]+?\.m?js)\b/g;
/** A name with a hash in it, as bundlers write it: `index-BIZOYYNN.js`, `main.8e3f1a2b.js`. Others say nothing of a version. */
const HASHED = /(?:\.|(?:^|[^\w.-])[^\W_]*[-_])(?=[a-z_-]*[A-Z\d])[\w-]{8,}\.m?js$/;

/**
 * Whether a document is of the target; undefined if the document does not tell.
 *
 * @param html The document as the server delivers it now.
 * @param current The version that it should be of; undefined: any but the page's own.
 * @param sources `src` of the scripts in the page.
 */
export function judgeDocument(
  html: string,
  mine: string,
  current: string | undefined,
  sources: readonly (string | null)[],
): boolean | undefined {
  const version = META.exec(html)?.[1];
  if (version) return current ? version === current : version !== mine;
  const hashed = [...html.matchAll(SCRIPT)].map(([, source]) => source!).filter((source) => HASHED.test(source));
  if (hashed.length) return hashed.some((source) => !sources.some((own) => own?.startsWith(source)));
}
