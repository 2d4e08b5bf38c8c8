/** The last hour: the samples of the server's history, then this page's own. Tests: tests/e2e/test_dashboard.py. */
import type { Headcount } from 'headcount-client';
import { onScopeDispose, type ShallowRef, shallowRef, watch } from 'vue';
import { get } from './server';

export interface Sample {
  at: number;
  total: number;
  versions: Record<string, number>;
  /** The current version, if it was known which. */
  current?: string;
  /** Connections were missing. */
  partial?: boolean;
}

const HOUR_MS = 3_600_000;
/** The server samples at the same interval. */
const INTERVAL_MS = 10_000;
/** A longer gap between two samples means that this page slept, was hidden, or had no connection. */
const GAP_MS = 3 * INTERVAL_MS;

export function useHistory(headcount: Headcount, isLive: () => boolean): ShallowRef<Sample[]> {
  const samples = shallowRef<Sample[]>([]);

  async function load() {
    try {
      const { samples: history } = await get<{ samples: Sample[] }>('/admin/history');
      // A server that has just started has a shorter history than this page.
      const from = history[0]?.at ?? Infinity;
      samples.value = [...samples.value.filter((sample) => sample.at < from), ...history];
    } catch {
      // The chart begins with this page's own samples. ConnectionStatus.vue shows what is wrong.
    }
    add();
  }

  function add() {
    if (!isLive()) return;
    const { total, versions, currentVersion: current, partial } = headcount.getSnapshot();
    const at = Date.now();
    const now = { at, total, versions, ...(current !== undefined && { current }), ...(partial && { partial }) };
    samples.value = [...samples.value.filter((sample) => sample.at > at - HOUR_MS && sample.at < at), now];
  }

  function sample() {
    const last = samples.value.at(-1);
    if (last && isLive() && Date.now() - last.at > GAP_MS) void load();
    else add();
  }

  watch(isLive, (now) => now && load(), { immediate: true });
  const timer = setInterval(sample, INTERVAL_MS);
  onScopeDispose(() => clearInterval(timer));
  return samples;
}
