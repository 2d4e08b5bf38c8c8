// @vitest-environment jsdom
import { afterEach, describe, expect, expectTypeOf, test, vi } from 'vitest';
import {
  type App,
  type ComputedRef,
  computed,
  createApp,
  defineComponent,
  effectScope,
  h,
  nextTick,
  ref,
  watch,
} from 'vue';
import type { ConnectionInfo, Release } from '../src/index.js';
import { type ActiveConnections, headcountPlugin, useActiveConnections } from '../src/vue.js';
import { messages } from './fixtures.js';
import { openPage, type Page, settled } from './page.js';

const { stats, 'stats-delta': delta, 'stats-unauthorized': unauthorized } = messages.server;
const apps: App[] = [];

afterEach(() => {
  for (const app of apps.splice(0)) app.unmount();
});

/** Mounts a component with this setup, as `app.use` would have it if there is a page to provide. */
function mount(setup: () => unknown, provided?: Page) {
  const app = createApp(defineComponent({ setup: () => (setup(), () => null) }));
  if (provided) app.use(headcountPlugin, provided.headcount);
  app.mount(document.createElement('div'));
  apps.push(app);
  return app;
}

/** What a component sees on a page whose stream is open. */
async function mounted<T>(use: (live: ActiveConnections) => T) {
  const page = openPage({ updateStrategy: 'ws' });
  let seen!: T;
  const app = mount(() => {
    seen = use(useActiveConnections(page.headcount));
  });
  await page.stream.connects();
  return { ...page, page, app, seen };
}

test('has the promised names and types', async () => {
  const { seen: live } = await mounted((live) => live);
  expectTypeOf(live.total).toEqualTypeOf<ComputedRef<number>>();
  expectTypeOf(live.versions).toEqualTypeOf<ComputedRef<Record<string, number>>>();
  expectTypeOf(live.routes).toEqualTypeOf<ComputedRef<Record<string, number>>>();
  expectTypeOf(live.connections).toEqualTypeOf<ComputedRef<ConnectionInfo[]>>();
  expectTypeOf(live.yourId).toEqualTypeOf<ComputedRef<string | undefined>>();
  expectTypeOf(live.authorized).toEqualTypeOf<ComputedRef<boolean | null>>();
  expectTypeOf(live.error).toEqualTypeOf<ComputedRef<string | null>>();
  expectTypeOf(live.currentVersion).toEqualTypeOf<ComputedRef<string | undefined>>();
  expectTypeOf(live.release).toEqualTypeOf<ComputedRef<Release | undefined>>();
  expect(Object.keys(live).sort()).toEqual([
    'authorized',
    'connections',
    'currentVersion',
    'error',
    'isStale',
    'partial',
    'release',
    'routes',
    'status',
    'total',
    'versions',
    'yourId',
  ]);
});

test('is pending, then authorised, then denied', async () => {
  const { page, seen: live } = await mounted((live) => live);
  const values = () => {
    const { authorized, total, versions, connections, yourId } = live;
    return [authorized.value, total.value, versions.value, connections.value.length, yourId.value];
  };
  expect(values()).toEqual([null, 0, {}, 0, undefined]);
  await page.stream.says(stats);
  expect(values()).toEqual([true, 2, { v1: 2 }, 2, 'c1']);
  await page.stream.says(unauthorized);
  expect(values()).toEqual([false, 0, {}, 0, undefined]);
});

test('renders again for what changed only', async () => {
  const versions = vi.fn();
  const { page } = await mounted((live) => watch(live.versions, versions));
  await page.stream.says(stats);
  await nextTick();
  expect(versions).toHaveBeenCalledTimes(1);
  await page.stream.says({ ...delta, versions: {} });
  await nextTick();
  expect(versions).toHaveBeenCalledTimes(1);
});

describe('what applications build with it', () => {
  test('a widget with a share per version and the busiest routes', async () => {
    const { page, seen } = await mounted(({ total, versions, routes, authorized }) => ({
      authorized,
      shares: computed(() =>
        Object.entries(versions.value)
          .map(([id, count]) => `${id.slice(0, 4)} ${Math.round((100 * count) / total.value)}%`)
          .sort(),
      ),
      busiest: computed(() =>
        Object.entries(routes.value)
          .sort(([, a], [, b]) => b - a)
          .slice(0, 2)
          .map(([route]) => route),
      ),
    }));
    const routes = { '/': 1, '/a': 2, '/b': 0, '/c': 3 };
    await page.stream.says({ ...stats, total: 4, versions: { version1: 3, version2: 1 }, routes });
    expect(seen.authorized.value).toBe(true);
    expect(seen.shares.value).toEqual(['vers 25%', 'vers 75%']);
    expect(seen.busiest.value).toEqual(['/c', '/a']);
  });

  test('a sign that everybody has left the old versions', async () => {
    const done = vi.fn();
    const { page } = await mounted(({ authorized, versions }) => {
      const outdated = computed(() => {
        let count = 0;
        for (const [id, open] of Object.entries(versions.value)) if (id !== 'v2') count += open;
        return count;
      });
      watch(outdated, (count) => {
        if (authorized.value && count === 0) done();
      });
    });
    await page.stream.says({ ...stats, versions: { v1: 2, v2: 1 }, total: 3 });
    await nextTick();
    expect(done).not.toHaveBeenCalled();
    await page.stream.says({ ...delta, total: 3, versions: { v1: 0, v2: 3 } });
    await nextTick();
    expect(done).toHaveBeenCalledOnce();
  });

  test('a count of the up to date, and of me among them', async () => {
    const { page, seen } = await mounted(({ total, versions, connections, yourId }) => ({
      current: computed(() => {
        const current = versions.value['v2'] || 0;
        return [current, total.value - current, total.value ? Math.round((100 * current) / total.value) : 0];
      }),
      me: computed(() => connections.value.find((connection) => connection.id === yourId.value)?.route),
    }));
    expect(seen.current.value).toEqual([0, 0, 0]);
    await page.stream.says({ ...stats, total: 4, versions: { v1: 1, v2: 3 } });
    expect(seen.current.value).toEqual([3, 1, 75]);
    expect(seen.me.value).toBe('/');
  });
});

describe('sharing', () => {
  test('many components have one stream and one subscription, which ends with the last', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    const use = () => useActiveConnections(page.headcount);
    const [a, b] = [1, 2].map(() => mount(() => [use(), use()]));
    await page.stream.connects();
    expect(page.streams).toHaveLength(1);
    expect(page.stream.sent).toHaveLength(1);
    a!.unmount();
    await settled();
    expect(page.stream.closed).toBe(false);
    b!.unmount();
    await settled();
    expect(page.stream.closed).toBe(true);
    apps.length = 0;
  });

  test('a view that replaces another keeps the subscription', async () => {
    const page = openPage({ updateStrategy: 'ws' });
    const view = ref('a');
    const totals: number[] = [];
    const Total = () =>
      defineComponent({
        setup() {
          const { total } = useActiveConnections(page.headcount);
          return () => (totals.push(total.value), null);
        },
      });
    const [A, B] = [Total(), Total()];
    const app = createApp(() => h(view.value === 'a' ? A : B));
    app.mount(document.createElement('div'));
    apps.push(app);
    await page.stream.connects();
    await page.stream.says(stats);
    await nextTick();
    view.value = 'b';
    await nextTick();
    await settled();
    expect(totals.at(-1)).toBe(2);
    expect(page.streams).toHaveLength(1);
    expect(page.stream.sent).toHaveLength(1);
  });

  test('the application provides one, and counts the page once it is mounted', async () => {
    const page = openPage();
    openPage();
    const app = createApp(defineComponent({ setup: () => (useActiveConnections(), () => null) }));
    app.use(headcountPlugin, page.headcount);
    expect(page.streams).toHaveLength(0);
    app.mount(document.createElement('div'));
    apps.push(app);
    expect(page.streams).toHaveLength(1);
    await page.stream.connects();
    expect(page.posts.map(({ path }) => path)).toEqual(['/__skew/subscribe-stats']);
  });

  test('an application without statistics is counted all the same', async () => {
    const page = openPage();
    mount(() => {}, page);
    await page.stream.connects();
    expect(page.streams).toHaveLength(1);
    expect(page.posts).toEqual([]);
  });

  test('without any of that it is the one created last', () => {
    openPage();
    const page = openPage();
    mount(() => useActiveConnections());
    expect(page.streams).toHaveLength(1);
  });
});

describe('life', () => {
  test('begins with the mount', () => {
    const page = openPage();
    mount(() => {
      useActiveConnections(page.headcount);
      expect(page.streams).toHaveLength(0);
    });
    expect(page.streams).toHaveLength(1);
  });

  test('the first render shows what a server would have rendered', async () => {
    const { page } = await mounted((live) => live);
    await page.stream.says(stats);
    let first: number | undefined;
    let live!: ActiveConnections;
    mount(() => {
      live = useActiveConnections(page.headcount);
      first = live.total.value;
    });
    expect(first).toBe(0);
    expect(live.total.value).toBe(2);
  });

  test('in a scope of its own it begins at once and ends with the scope', async () => {
    const page = openPage();
    const scope = effectScope();
    const live = scope.run(() => useActiveConnections(page.headcount))!;
    expect(live.status.value).toBe('connecting');
    scope.stop();
    await settled();
    expect(page.stream.closed).toBe(true);
  });
});
