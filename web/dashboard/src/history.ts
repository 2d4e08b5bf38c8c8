/** The last hour: what the server remembers, and from then on what this page sees. */
import type { Headcount } from 'headcount-client'
import { onScopeDispose, shallowRef, watch, type ComputedRef, type ShallowRef } from 'vue'
import { get } from './site'

export interface Sample {
  at: number
  total: number
  versions: Record<string, number>
}

const HOUR_MS = 3_600_000

export function useHistory(headcount: Headcount, authorized: ComputedRef<boolean | null>): ShallowRef<Sample[]> {
  const samples = shallowRef<Sample[]>([])
  let intervalMs = 10_000

  async function load() {
    try {
      const told = await get<{ intervalMs: number; samples: Sample[] }>('/admin/history')
      intervalMs = told.intervalMs
      samples.value = told.samples
    } catch {
      // The chart begins with what this page sees; whatever is wrong is said where the figures are.
    }
    look()
  }

  function look() {
    const { authorized, isStale, total, versions } = headcount.getSnapshot()
    if (!authorized || isStale) return
    const at = Date.now()
    samples.value = [...samples.value.filter((sample) => sample.at > at - HOUR_MS), { at, total, versions }]
  }

  watch(authorized, (now) => now && load(), { immediate: true })
  const timer = setInterval(look, intervalMs)
  onScopeDispose(() => clearInterval(timer))
  return samples
}
