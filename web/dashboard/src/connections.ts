/** The rows of the connection table: the live list while that is whole, else pages of the server, asked for again. */
import type { ConnectionInfo, Snapshot } from 'headcount-client'
import { computed, onScopeDispose, shallowRef, watch, type ComputedRef, type Ref } from 'vue'
import { get } from './site'

export interface Filter {
  version: string
  route: string
}

interface Page {
  connections: ConnectionInfo[]
  cursor: string | null
}

const PAGE = 1000
/** More rows than anybody reads; whoever looks for one filters. */
export const MOST_ROWS = 20_000
const AGAIN_MS = 10_000

export function useConnections(snapshot: () => Snapshot, filter: Readonly<Ref<Filter>>) {
  const paged = shallowRef<ConnectionInfo[]>([])
  const problem = shallowRef('')
  const truncated = computed(() => snapshot().connectionsTruncated)
  let request = new AbortController()
  let again: ReturnType<typeof setTimeout>

  async function load() {
    request.abort()
    clearTimeout(again)
    if (!truncated.value) return
    const { signal } = (request = new AbortController())
    try {
      const rows: ConnectionInfo[] = []
      let cursor: string | null = ''
      do {
        const query = new URLSearchParams({ limit: String(PAGE) })
        if (filter.value.version) query.set('version', filter.value.version)
        if (filter.value.route) query.set('route', filter.value.route)
        if (cursor) query.set('cursor', cursor)
        const page: Page = await get(`/admin/connections?${query}`, signal)
        rows.push(...page.connections)
        cursor = page.cursor
      } while (cursor && rows.length < MOST_ROWS)
      paged.value = rows
      problem.value = ''
    } catch (error) {
      if (signal.aborted) return
      problem.value = error instanceof Error ? error.message : String(error)
    }
    again = setTimeout(load, AGAIN_MS)
  }

  watch([truncated, filter], load, { immediate: true })
  onScopeDispose(() => {
    request.abort()
    clearTimeout(again)
  })

  const rows: ComputedRef<readonly ConnectionInfo[]> = computed(() => {
    if (truncated.value) return paged.value
    const { version, route } = filter.value
    return snapshot().connections.filter((row) => (!version || row.version === version) && (!route || row.route === route))
  })
  return { rows, truncated, problem }
}
