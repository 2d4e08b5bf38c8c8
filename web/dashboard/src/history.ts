/** The last hour: what the server remembers, and from then on what this page sees. */
import type { Headcount } from 'headcount-client';
import { onScopeDispose, type ShallowRef, shallowRef, watch } from 'vue';
import { get } from './site';

export interface Sample {
  at: number;
  total: number;
  versions: Record<string, number>;
}

const HOUR_MS = 3_600_000;
/** As the server takes its own. */
const INTERVAL_MS = 10_000;
/** Two samples that are further apart mean that this page slept, or was hidden, or had no server. */
const GAP_MS = 3 * INTERVAL_MS;

export function useHistory(headcount: Headcount, isLive: () => boolean): ShallowRef<Sample[]> {
  const samples = shallowRef<Sample[]>([]);

  async function load() {
    try {
      const { samples: told } = await get<{ samples: Sample[] }>('/admin/history');
      // A server that has just started remembers less than this page does.
      const from = told[0]?.at ?? Infinity;
      samples.value = [...samples.value.filter((sample) => sample.at < from), ...told];
    } catch {
      // The chart begins with what this page sees; whatever is wrong is said where the figures are.
    }
    add();
  }

  function add() {
    if (!isLive()) return;
    const { total, versions } = headcount.getSnapshot();
    const at = Date.now();
    samples.value = [
      ...samples.value.filter((sample) => sample.at > at - HOUR_MS && sample.at < at),
      { at, total, versions },
    ];
  }

  function look() {
    const last = samples.value.at(-1);
    if (last && isLive() && Date.now() - last.at > GAP_MS) void load();
    else add();
  }

  watch(isLive, (now) => now && load(), { immediate: true });
  const timer = setInterval(look, INTERVAL_MS);
  onScopeDispose(() => clearInterval(timer));
  return samples;
}
