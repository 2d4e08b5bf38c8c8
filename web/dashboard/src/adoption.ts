/**
 * The adoption curves of the last rollouts: which are compared, how they are drawn, and what is said of them.
 * src/headcount/core/rollouts.py makes them, and compares the same ones in `headcount rollout`. Tests: test/adoption.test.ts.
 */
import { onScopeDispose, type ShallowRef, shallowRef, watch } from 'vue';
import { get } from './server';

export interface Time {
  afterMs: number;
  /** It may have been earlier, because figures were partial before it. */
  partial?: boolean;
}

export interface Rollout {
  version: string;
  /** In ms since 1970. */
  at: number;
  declared: boolean;
  state: 'running' | 'done' | 'replaced';
  partial?: boolean;
  reached: (Time & { percent: number })[];
  halfLife?: Time;
  curve: { afterMs: number; on: number; total: number }[];
}

export const PERCENTS = [50, 90, 99] as const;
const COMPARED = 5;
const INTERVAL_MS = 30_000;
/** The shortest time axis. */
const LEAST_MS = 120_000;
/** The axis ends so much after the last moment that is of interest. */
const MARGIN = 1.1;

/** The last rollouts before the newest that were done: of others it is not known how long they take. */
export const compared = (rollouts: readonly Rollout[]): Rollout[] =>
  rollouts
    .slice(1)
    .filter(({ state }) => state === 'done')
    .slice(0, COMPARED);

export const reached = (rollout: Rollout, percent: number): Time | undefined =>
  rollout.reached.find((time) => time.percent === percent);

/** After how many ms a rollout usually reaches a share: the median. */
export function typical(others: readonly Rollout[], percent: number): number | undefined {
  const times = others.flatMap((rollout) => reached(rollout, percent)?.afterMs ?? []).sort((one, other) => one - other);
  const middle = times.length >> 1;
  return times.length % 2 ? times[middle] : times.length ? (times[middle - 1]! + times[middle]!) / 2 : undefined;
}

/** "40 s", "3.5 min", "25 min", "2.1 h": for a narrow column. */
export function short(ms: number): string {
  const units = [
    ['s', 1_000],
    ['min', 60_000],
    ['h', 3_600_000],
    ['d', 86_400_000],
  ] as const;
  const [unit, length] = units.find(([, each]) => ms < 120 * each) ?? units[3];
  const value = ms / length;
  return `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)} ${unit}`;
}

/** A time, with "<" if it may have been earlier; "–" if it was not reached. */
export const shown = (time: Time | undefined) => (time ? `${time.partial ? '<' : ''}${short(time.afterMs)}` : '–');

/** The end of the time axis in ms: what the newest has shown so far, and what was usual. */
export function horizon(newest: Rollout, others: readonly Rollout[]): number {
  // After 99 %, a curve says little more, and may go on for days.
  const end = reached(newest, 99)?.afterMs ?? newest.curve.at(-1)?.afterMs ?? 0;
  return Math.max(LEAST_MS, MARGIN * Math.max(end, typical(others, 99) ?? 0));
}

/** What uPlot draws: all times in seconds, then the share of each rollout in per cent; null where a curve has no point. */
export function aligned(rollouts: readonly Rollout[], end: number): [number[], ...(number | null)[][]] {
  const within = rollouts.map(({ curve }) => curve.filter(({ afterMs, total }) => afterMs <= end && total > 0));
  const times = [...new Set(within.flat().map(({ afterMs }) => afterMs))].sort((one, other) => one - other);
  return [
    times.map((time) => time / 1000),
    ...within.map((curve) => {
      const shares = new Map(curve.map(({ afterMs, on, total }) => [afterMs, (100 * on) / total]));
      return times.map((time) => shares.get(time) ?? null);
    }),
  ];
}

/** The newest rollout, and how it compares. */
export function verdict(newest: Rollout, others: readonly Rollout[]): string {
  const last = newest.curve.at(-1);
  const now = last?.total ? Math.floor((1000 * last.on) / last.total) / 10 : undefined;
  const state = now === undefined ? 'not known yet how many connections are on it' : `${now}% of connections are on it`;
  const next = PERCENTS.find((percent) => !reached(newest, percent));
  const usual = next === undefined ? undefined : typical(others, next);
  const sentence = `${newest.version}: ${newest.state}, ${state}.`;
  if (newest.state !== 'running' || usual === undefined) return sentence;
  return `${sentence} ${next}% usually took ${short(usual)}.`;
}

/** The rollouts of the server, newest first, asked for again while somebody looks. */
export function useRollouts(isLive: () => boolean): ShallowRef<Rollout[]> {
  const rollouts = shallowRef<Rollout[]>([]);

  async function load() {
    if (!isLive() || document.hidden) return;
    try {
      rollouts.value = (await get<{ rollouts: Rollout[] }>('/admin/history/rollouts')).rollouts;
    } catch {
      // The last ones stay. ConnectionStatus.vue shows what is wrong.
    }
  }

  watch(isLive, load, { immediate: true });
  const timer = setInterval(load, INTERVAL_MS);
  document.addEventListener('visibilitychange', load);
  onScopeDispose(() => {
    clearInterval(timer);
    document.removeEventListener('visibilitychange', load);
  });
  return rollouts;
}
