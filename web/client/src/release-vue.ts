/** Vue's view of a Release: computed refs over its state, alive from mount to the end of the scope. */
import type { ComputedRef } from 'vue';
import { computed, getCurrentInstance, getCurrentScope, onMounted, onScopeDispose, shallowRef } from 'vue';
import { latestRelease, type Release, type ReleaseState } from './release.js';

const NAMES = ['mine', 'current', 'outdated', 'settled', 'missing', 'offered', 'mode', 'reason'] as const;

export type ReleaseRefs = { [name in (typeof NAMES)[number]]: ComputedRef<ReleaseState[name]> } & Pick<
  Release,
  'reload' | 'dismiss' | 'guard' | 'onOutdated'
>;

/**
 * Whether this page is to be replaced, live. Guards and listeners that a component adds stay until they are removed.
 *
 * @param release Default: the one created last.
 */
export function useRelease(release: Release | undefined = latestRelease()): ReleaseRefs {
  if (!release) throw new Error('useRelease() found no release. Call createRelease() first, or pass one.');
  // Until it is mounted, a component renders the server's state, or hydration would fail.
  const state = shallowRef(release.getServerSnapshot());
  let stop: (() => void) | undefined;
  const start = () => {
    stop = release.subscribe((next) => {
      state.value = next;
    });
  };
  if (getCurrentInstance()) onMounted(start);
  else start();
  if (getCurrentScope()) onScopeDispose(() => stop?.());
  const { reload, dismiss, guard, onOutdated } = release;
  const refs = Object.fromEntries(NAMES.map((name) => [name, computed(() => state.value[name])]));
  return { ...refs, reload, dismiss, guard, onOutdated } as ReleaseRefs;
}
