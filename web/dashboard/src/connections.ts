/**
 * The rows of the connection table: the live list while it is complete, else pages that the server filters and sorts.
 * Pages are loaded as the user scrolls, and the visible ones are refreshed. Tests: tests/e2e/test_dashboard.py.
 */
import type { ConnectionInfo, Snapshot } from 'headcount-client';
import { computed, onScopeDispose, type Ref, shallowRef, watch } from 'vue';
import { countPart, type Filter, matchesRoute } from './filter';
import { get } from './server';

export type Column = 'id' | 'version' | 'route' | 'ip';

export interface Sort {
  by: Column;
  descending: boolean;
}

interface Page {
  rows: ConnectionInfo[];
  /** The cursor that this page begins at; null for the first page. */
  after: string | null;
  next: string | null;
  /** When it was loaded, in ms since 1970; 0 when it must be loaded again. */
  at: number;
}

const PAGE_SIZE = 1000;
/** Nobody reads more rows; to find one, people filter or sort. */
export const MAX_ROWS = 20_000;
/** Of those that are asked for: where a part of a route is searched, most rows may be others. */
const MAX_PAGES = MAX_ROWS / PAGE_SIZE;
export const REFRESH_MS = 10_000;

/** Why addresses are missing from the list, in a sentence of the server; empty while they are there, or the reason is not known. */
export function useMissingAddresses(missing: () => boolean): Readonly<Ref<string>> {
  const reason = shallowRef('');
  watch(
    missing,
    async (isMissing) => {
      reason.value = '';
      if (!isMissing) return;
      // The list itself shows no error for this: it has its own requests.
      const page = await get<{ ipsUnknown?: string }>('/admin/connections?limit=1').catch(() => undefined);
      if (missing()) reason.value = page?.ipsUnknown ?? '';
    },
    { immediate: true },
  );
  return reason;
}

export function useConnections(
  snapshot: () => Snapshot,
  filter: Readonly<Ref<Filter>>,
  sort: Readonly<Ref<Sort | undefined>>,
  /** Indices of the first and the last visible row. */
  visibleRange: Readonly<Ref<readonly [number, number]>>,
) {
  const pages = shallowRef<readonly Page[]>([]);
  const problem = shallowRef('');
  const truncated = computed(() => snapshot().connectionsTruncated);
  /** The pages without duplicates: a connection that moved between two loads is kept in the newer page only. */
  const distinct = computed<readonly Page[]>(() => {
    const newest = new Map<string, Page>();
    for (const page of [...pages.value].sort((a, b) => a.at - b.at))
      for (const row of page.rows) newest.set(row.id, page);
    return pages.value.map((page) => ({ ...page, rows: page.rows.filter(({ id }) => newest.get(id) === page) }));
  });
  let request: AbortController | undefined;
  let refreshTimer: ReturnType<typeof setTimeout>;
  /** False after the filter or the order changed, until the first page of the new list is there. */
  let isCurrent = false;

  async function load(after: string | null, signal: AbortSignal): Promise<Page> {
    const query = new URLSearchParams({ limit: String(PAGE_SIZE) });
    const wanted = filter.value;
    const { version, route, isPart } = wanted;
    if (version) query.set('version', version);
    if (route && !isPart) query.set('route', route);
    if (sort.value) query.set('sort', (sort.value.descending ? '-' : '') + sort.value.by);
    if (after) query.set('cursor', after);
    const page = await get<{ connections: ConnectionInfo[]; cursor: string | null }>(
      `/admin/connections?${query}`,
      signal,
    );
    // The server knows whole routes only.
    const rows = isPart ? page.connections.filter((row) => matchesRoute(wanted, row.route)) : page.connections;
    return { rows, after, next: page.cursor, at: Date.now() };
  }

  /** Loads the visible pages that are missing or stale, one after the other, and schedules the next refresh. */
  async function loadStalePages() {
    clearTimeout(refreshTimer);
    if (!truncated.value || request) return;
    const { signal } = (request = new AbortController());
    try {
      for (let stale: ReturnType<typeof nextStalePage>; (stale = nextStalePage()); ) {
        const { index, after } = stale;
        const page = await load(after, signal);
        if (signal.aborted) return;
        const before = isCurrent ? pages.value.slice(0, index) : [];
        let later = isCurrent ? pages.value.slice(index + 1) : [];
        isCurrent = true;
        if (page.next === null) later = [];
        else if (later[0] && later[0].after !== page.next) {
          // Rows were added or removed, so the next page begins at another cursor now.
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
    refreshTimer = setTimeout(loadStalePages, REFRESH_MS);
  }

  function nextStalePage(): { index: number; after: string | null } | undefined {
    if (!isCurrent) return { index: 0, after: null };
    const [first, last] = visibleRange.value;
    let end = 0;
    for (const [index, { rows, after, at }] of distinct.value.entries()) {
      const start = end;
      end += rows.length;
      if (start <= last && first < end && Date.now() - at >= REFRESH_MS) return { index, after };
    }
    const next = pages.value.at(-1)!.next;
    return next !== null && last >= end && end < MAX_ROWS && pages.value.length < MAX_PAGES
      ? { index: pages.value.length, after: next }
      : undefined;
  }

  function restart() {
    request?.abort();
    request = undefined;
    // The old rows stay until the new ones are there: a table that blinks is hard to read.
    isCurrent = false;
    void loadStalePages();
  }

  watch([truncated, filter, sort], restart, { immediate: true });
  watch(visibleRange, loadStalePages);
  onScopeDispose(() => {
    request?.abort();
    clearTimeout(refreshTimer);
  });

  const live = computed(() => {
    const { version } = filter.value;
    const rows = snapshot().connections.filter(
      (row) => (!version || row.version === version) && matchesRoute(filter.value, row.route),
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
  /** A part of a route was searched for, and not in all connections. */
  const isCut = computed(
    () =>
      truncated.value && filter.value.isPart && pages.value.length >= MAX_PAGES && pages.value.at(-1)?.next !== null,
  );
  const isWhole = computed(() => !truncated.value || pages.value.at(-1)?.next === null);

  /** How many connections match the filter; undefined while only the server knows. */
  const matching = computed(() => {
    const { total, versions, routes } = snapshot();
    const { version, route, isPart } = filter.value;
    // The server's count where there is one: pages of different moments can miss connections that moved between them.
    const known = version
      ? route
        ? undefined
        : versions[version]
      : isPart
        ? countPart(filter.value, routes)
        : route
          ? routes[route]
          : total;
    return truncated.value && known !== undefined ? known : isWhole.value ? rows.value.length : undefined;
  });
  /** How many rows the table has, including those that are not loaded yet. */
  const length = computed(() => {
    const loaded = rows.value.length;
    return isWhole.value || isCut.value ? loaded : Math.min(MAX_ROWS, Math.max(loaded + 1, matching.value ?? 0));
  });
  return { rows, length, matching, truncated, isCut, problem };
}
