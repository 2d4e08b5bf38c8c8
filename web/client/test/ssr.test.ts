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
