/** Vue's view of a Headcount: computed refs over its snapshot, alive from mount to the end of the scope. */

import type { App, ComputedRef, InjectionKey } from 'vue';
import {
  computed,
  getCurrentInstance,
  getCurrentScope,
  hasInjectionContext,
  inject,
  onMounted,
  onScopeDispose,
  shallowRef,
} from 'vue';
import { type Headcount, latestHeadcount, type Snapshot } from './index.js';

const NAMES = [
  'total',
  'versions',
  'routes',
  'connections',
  'yourId',
  'authorized',
  'status',
  'error',
  'isStale',
  'partial',
  'currentVersion',
  'release',
] as const;

export type ActiveConnections = { [name in (typeof NAMES)[number]]: ComputedRef<Snapshot[name]> };

const key: InjectionKey<Headcount> = Symbol('headcount');

/** `app.use(headcountPlugin, headcount)` provides it to all components and counts the page once the app is mounted. */
export const headcountPlugin = {
  install(app: App, headcount: Headcount): void {
    app.provide(key, headcount);
    // Vue has no mount hook for plugins. During server-side rendering nothing is mounted.
    const mount = app.mount;
    app.mount = (...target) => {
      const root = mount(...target);
      headcount.connect();
      return root;
    };
  },
};

/**
 * The statistics, live. All components share one stream and one subscription.
 *
 * @param headcount Default: the client that the app provides, else the one created last.
 */
export function useActiveConnections(headcount?: Headcount): ActiveConnections {
  const live = headcount ?? (hasInjectionContext() ? inject(key, undefined) : undefined) ?? latestHeadcount();
  if (!live) throw new Error('useActiveConnections() found no Headcount. Call createHeadcount() first, or pass one.');
  // Until it is mounted, a component renders the server's snapshot, or hydration would fail.
  const snapshot = shallowRef(live.getServerSnapshot());
  const update = () => {
    snapshot.value = live.getSnapshot();
  };
  let stop: (() => void) | undefined;
  const start = () => {
    stop = live.subscribe(update);
    update();
  };
  if (getCurrentInstance()) onMounted(start);
  else start();
  if (getCurrentScope()) onScopeDispose(() => stop?.());
  return Object.fromEntries(NAMES.map((name) => [name, computed(() => snapshot.value[name])])) as ActiveConnections;
}
