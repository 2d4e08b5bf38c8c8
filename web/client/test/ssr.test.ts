import { expect, test, vi } from 'vitest';
import { createSSRApp, defineComponent, h } from 'vue';
import { renderToString } from 'vue/server-renderer';
import { createHeadcount } from '../src/index.js';
import { headcountPlugin, useActiveConnections } from '../src/vue.js';

test('renders on a server, where nothing is counted and nothing connects', async () => {
  const warn = vi.spyOn(console, 'warn');
  const headcount = createHeadcount({ version: 'v1', routeTracking: true });
  const app = createSSRApp(
    defineComponent({
      setup() {
        const { total, authorized, connections, status } = useActiveConnections();
        return () => h('p', `${total.value} ${authorized.value} ${connections.value.length} ${status.value}`);
      },
    }),
  );
  app.use(headcountPlugin, headcount);
  expect(await renderToString(app)).toBe('<p>0 null 0 idle</p>');
  expect(warn).not.toHaveBeenCalled();
});

test('says what is missing when there is no Headcount', async () => {
  vi.resetModules();
  const { useActiveConnections } = await import('../src/vue.js');
  expect(() => useActiveConnections()).toThrow('createHeadcount()');
});

test.each([
  ...['index', 'vue', 'react', 'element', 'shared'],
  ...['release', 'release-vue', 'release-react', 'release-element'],
])('%s is imported in Node, where there is no window, and does nothing', async (name) => {
  expect(typeof window).toBe('undefined');
  vi.resetModules();
  const module = await import(`../src/${name}.ts`);
  expect(Object.keys(module).length).toBeGreaterThan(0);
});

test('a release that is created while a server renders does nothing', async () => {
  const { createRelease } = await import('../src/release.js');
  const release = createRelease({ version: 'v1', headcount: createHeadcount({ version: 'v1' }), mode: 'immediate' });
  release.dismiss();
  release.guard(() => true)();
  release.recover();
  expect(await release.reload()).toBe('current');
  expect(release.getSnapshot()).toMatchObject({ mine: 'v1', outdated: null, offered: false });
  release.close();
});

test('a Headcount whose stream is to be shared may be created while a server renders', async () => {
  const { shared } = await import('../src/shared.js');
  const headcount = createHeadcount({ version: 'v1', stream: shared });
  const seen: number[] = [];
  headcount.subscribe(({ total }) => seen.push(total))();
  headcount.connect();
  expect([headcount.getSnapshot().status, seen]).toEqual(['idle', [0]]);
});
