/** What the strip of the rollout says: since when, how fast, on which nodes. Tests: test/rollout.test.ts. */
import type { Nodes, Release } from 'headcount-client';
import type { Absence } from './absences';
import { count, duration, plural } from './format';

/** The number of a release is the time of its declaration. A node takes numbers of at most a day ahead. */
const DAY_MS = 86_400_000;
/** 2001: a smaller number is none. */
const FIRST_MS = 1e12;

/** When the release was declared, in ms since 1970; undefined if it was not, or its number cannot be a time. */
export function declaredAt(release: Release | undefined, now: number): number | undefined {
  const at = release?.state === 'declared' ? (release.number ?? 0) : 0;
  return at >= FIRST_MS && at <= now + DAY_MS ? at : undefined;
}

/** "2:02 PM"; with the date if it was not today. */
export function moment(at: number, now: number): string {
  const [then, today] = [new Date(at), new Date(now)];
  const time = then.toLocaleTimeString([], { hour: 'numeric', minute: '2-digit' });
  return then.toDateString() === today.toDateString() ? time : `${then.toLocaleDateString()}, ${time}`;
}

/** Why the version is current. */
export function origin(release: Release | undefined, now: number): string | undefined {
  const at = declaredAt(release, now);
  if (release?.state === 'declared') return at === undefined ? 'declared' : `declared ${moment(at, now)}`;
  return release?.state === 'settled' ? 'settled: every node serves it' : undefined;
}

/** "about 20 s", "about 5 minutes": an estimate is not exact to the second. */
export const about = (ms: number) =>
  `about ${ms < 90_000 ? `${Math.max(5, 5 * Math.round(ms / 5_000))} s` : duration(ms)}`;

export interface Estimate {
  left: string;
  why?: string;
}

/**
 * How long until no page is on other versions, and how many leave in a minute now. The pace belongs to the curve that
 * trend.ts draws: the number shrinks by the same factor in each minute until half a connection is left.
 *
 * @param old The connections on other versions.
 * @param left What `timeToGo` says of them.
 */
export function estimate(old: number, left: number | undefined): Estimate {
  if (left === undefined) return { left: 'not known', why: 'not enough data yet' };
  if (left === Infinity) return { left: 'not known', why: 'their number is not falling' };
  const pace = left > 0 ? (old * Math.log(2 * old) * 60_000) / left : 0;
  return pace >= 1 ? { left: about(left), why: `${count(Math.round(pace))}/min` } : { left: about(left) };
}

/** How many nodes serve each version; those that do not say are unknown. */
export function served(nodes: Nodes | undefined): string {
  const known = Object.entries(nodes?.versions ?? {}).sort(([, a], [, b]) => b - a);
  const silent = (nodes?.expected ?? 0) - known.reduce((sum, [, number]) => sum + number, 0);
  return [...known, ...(silent > 0 ? [['unknown', silent] as const] : [])]
    .map(([version, number]) => `${version} (${plural(number, 'node')})`)
    .join(', ');
}

/** "123"; "at least 120" while nobody knows the number of one node; undefined while none is unaccounted for. */
export function unaccounted(absences: readonly Absence[]): string | undefined {
  if (!absences.length) return undefined;
  const known = absences.reduce((sum, { total }) => sum + (total ?? 0), 0);
  if (absences.every(({ total }) => total !== null)) return count(known);
  return known ? `at least ${count(known)}` : 'not known';
}
