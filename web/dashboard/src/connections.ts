/**
 * The rows of the connection table. While the live list is whole, they are that; else pages of the server, which sorts
 * them: only as far as somebody has looked, and those in sight are asked for again after a while.
 */
import type { ConnectionInfo, Snapshot } from 'headcount-client';
import { computed, onScopeDispose, type Ref, shallowRef, watch } from 'vue';
import { get } from './site';

export interface Filter {
  version: string;
  route: string;
}

export type Column = 'id' | 'version' | 'route' | 'ip';

export interface Sort {
  by: Column;
  descending: boolean;
}

interface Page {
  rows: ConnectionInfo[];
  /** The cursor that it begins with; the first has none. */
  after: string | null;
  next: string | null;
  /** When it came, in ms; 0: what it holds is doubtful. */
  at: number;
}

const PAGE = 1000;
/** More rows than anybody reads; whoever looks for one filters or sorts. */
export const MOST_ROWS = 20_000;
export const AGAIN_MS = 10_000;

export function useConnections(
  snapshot: () => Snapshot,
  filter: Readonly<Ref<Filter>>,
  sort: Readonly<Ref<Sort | undefined>>,
  /** Indices of the first and the last row that somebody sees. */
  sight: Readonly<Ref<readonly [number, number]>>,
) {
  const pages = shallowRef<readonly Page[]>([]);
  const problem = shallowRef('');
  const truncated = computed(() => snapshot().connectionsTruncated);
  /** The pages as the table has them: who moved meanwhile is in two, and stands in the newer one. */
  const distinct = computed<readonly Page[]>(() => {
    const newest = new Map<string, Page>();
    for (const page of [...pages.value].sort((a, b) => a.at - b.at))
      for (const row of page.rows) newest.set(row.id, page);
    return pages.value.map((page) => ({ ...page, rows: page.rows.filter(({ id }) => newest.get(id) === page) }));
  });
  let request: AbortController | undefined;
  let again: ReturnType<typeof setTimeout>;
  let fresh = false;

  async function load(after: string | null, signal: AbortSignal): Promise<Page> {
    const query = new URLSearchParams({ limit: String(PAGE) });
    const { version, route } = filter.value;
    if (version) query.set('version', version);
    if (route) query.set('route', route);
    if (sort.value) query.set('sort', (sort.value.descending ? '-' : '') + sort.value.by);
    if (after) query.set('cursor', after);
    const page = await get<{ connections: ConnectionInfo[]; cursor: string | null }>(
      `/admin/connections?${query}`,
      signal,
    );
    return { rows: page.connections, after, next: page.cursor, at: Date.now() };
  }

  /** Loads what is in sight and missing or old, one page after the other, and looks again later. */
  async function look() {
    clearTimeout(again);
    if (!truncated.value || request) return;
    const { signal } = (request = new AbortController());
    try {
      for (let due; (due = whatIsDue()); ) {
        const { index, after } = due;
        const page = await load(after, signal);
        if (signal.aborted) return;
        const before = fresh ? pages.value.slice(0, index) : [];
        let later = fresh ? pages.value.slice(index + 1) : [];
        fresh = true;
        if (page.next === null) later = [];
        else if (later[0] && later[0].after !== page.next) {
          // Rows came or went: the next page begins elsewhere now.
          later = [{ ...later[0], after: page.next, at: 0 }, ...later.slice(1)];
        }
        pages.value = [...before, page, ...later];
      }
      problem.value = '';
    } catch (error) {
      if (signal.aborted) return;
      problem.value = error instanceof Error ? error.message : String(error);
    }
    request = undefined;
    again = setTimeout(look, AGAIN_MS);
  }

  function whatIsDue(): { index: number; after: string | null } | undefined {
    if (!fresh) return { index: 0, after: null };
    const [first, last] = sight.value;
    let end = 0;
    for (const [index, { rows, after, at }] of distinct.value.entries()) {
      const start = end;
      end += rows.length;
      if (start <= last && first < end && Date.now() - at >= AGAIN_MS) return { index, after };
    }
    const next = pages.value.at(-1)!.next;
    return next !== null && last >= end && end < MOST_ROWS ? { index: pages.value.length, after: next } : undefined;
  }

  function begin() {
    request?.abort();
    request = undefined;
    // The old rows stay until there are others: a table that blinks is hard to read.
    fresh = false;
    void look();
  }

  watch([truncated, filter, sort], begin, { immediate: true });
  watch(sight, look);
  onScopeDispose(() => {
    request?.abort();
    clearTimeout(again);
  });

  const live = computed(() => {
    const { version, route } = filter.value;
    const rows = snapshot().connections.filter(
      (row) => (!version || row.version === version) && (!route || row.route === route),
    );
    if (!sort.value) return rows;
    const { by, descending } = sort.value;
    const sign = descending ? -1 : 1;
    const text = (row: ConnectionInfo) => row[by] ?? '';
    const order = (a: string, b: string) => (a < b ? -sign : a > b ? sign : 0);
    return rows.sort((a, b) => order(text(a), text(b)) || order(a.id, b.id));
  });
  const rows = computed<readonly ConnectionInfo[]>(() =>
    truncated.value ? distinct.value.flatMap((page) => page.rows) : live.value,
  );
  const isWhole = computed(() => !truncated.value || pages.value.at(-1)?.next === null);

  /** How many connections there are behind the filter; undefined while only the server could tell. */
  const matching = computed(() => {
    const { total, versions, routes } = snapshot();
    const { version, route } = filter.value;
    // The server's own figure where there is one: pages of different moments have not everybody who moved between them.
    const told = version ? (route ? undefined : versions[version]) : route ? routes[route] : total;
    return truncated.value && told !== undefined ? told : isWhole.value ? rows.value.length : undefined;
  });
  /** How many rows the table has, with those that are not loaded yet. */
  const length = computed(() => {
    const loaded = rows.value.length;
    return isWhole.value ? loaded : Math.min(MOST_ROWS, Math.max(loaded + 1, matching.value ?? 0));
  });
  return { rows, length, matching, truncated, problem };
}
