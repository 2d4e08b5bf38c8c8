/** The nodes whose connections are unaccounted for, while figures are partial. Tests: test/absences.test.ts, tests/e2e/test_dashboard.py. */
import { onScopeDispose, type ShallowRef, shallowRef, watch } from 'vue';
import { clock, count, plural } from './format';
import { get } from './server';

export interface Absence {
  node: string;
  /** null: nobody knows. */
  total: number | null;
  state: string;
  /** When the node was heard last, in ms since 1970; 0: nobody knows. */
  since: number;
}

const INTERVAL_MS = 3_000;
const STATES: Record<string, string> = {
  'cut-off': 'stopped or cut off',
  leaving: 'stopped properly',
  unanswered: 'pages do not answer',
};

export function useAbsences(isPartial: () => boolean): ShallowRef<Absence[]> {
  const absences = shallowRef<Absence[]>([]);

  async function load() {
    try {
      const answer = await get<{ absences?: Absence[] }>('/admin/nodes');
      absences.value = isPartial() ? (answer.absences ?? []) : [];
    } catch {
      // ConnectionStatus.vue shows what is wrong with the connection.
    }
  }

  let timer: ReturnType<typeof setInterval> | undefined;
  const stop = () => clearInterval(timer);
  watch(
    isPartial,
    (partial) => {
      stop();
      absences.value = [];
      if (!partial) return;
      void load();
      timer = setInterval(load, INTERVAL_MS);
    },
    { immediate: true },
  );
  onScopeDispose(stop);
  return absences;
}

/** "120 connections are unaccounted for: node 3f2a (stopped or cut off, since 14:02:11)." */
export function sentence(absences: Absence[]): string {
  const known = absences.reduce((sum, { total }) => sum + (total ?? 0), 0);
  const complete = absences.every(({ total }) => total !== null);
  const number = complete
    ? plural(known, 'connection')
    : known
      ? `At least ${count(known)} connections`
      : 'Connections';
  const nodes = absences.slice(0, 3).map(({ node, state, since }) => {
    const details = [STATES[state], since ? `since ${clock(since)}` : ''].filter(Boolean).join(', ');
    return details ? `${node} (${details})` : node;
  });
  const more = absences.length > 3 ? ', …' : '';
  const verb = complete && known === 1 ? 'is' : 'are';
  return `${number} ${verb} unaccounted for: node ${nodes.join(', ')}${more}.`;
}
