import { createApp, defineComponent, h, Suspense } from 'vue';
import { createMemoryHistory, createRouter } from 'vue-router';
import { useActiveConnections } from '#skew-protection/app/composables/useActiveConnections.js';
import { useSkewProtection } from '#skew-protection/app/composables/useSkewProtection.js';
import { createNuxtApp } from '../stubs/nuxt-app.js';
import { options } from './options.js';

const live = {
  authorized: null,
  total: 0,
  versions: {},
  routes: {},
  connections: [],
  yourId: undefined,
  serverVersion: undefined, // of the last `connected` or `version`
  mounted: false,
};
const messages = []; // every message the package handed on, oldest first
const errors = [];

const Stats = defineComponent({
  setup() {
    const active = useActiveConnections();
    const skew = useSkewProtection({ lazy: true }); // lazy: it listens, but leaves connecting to useActiveConnections
    const figures = () => ({
      authorized: active.authorized.value,
      total: active.total.value,
      versions: active.versions.value,
      routes: active.routes.value,
      connections: active.connections.value,
      yourId: active.yourId.value,
      serverVersion: skew.serverVersion.value,
    });
    return () => {
      const now = figures();
      Object.assign(live, now);
      return h('pre', { id: 'stats' }, JSON.stringify(now, null, 2));
    };
  },
});

const Page = defineComponent({
  setup: () => () =>
    h('main', [
      h(
        'nav',
        ['/', '/a', '/b', '/shopping'].map((path) =>
          h('button', { type: 'button', 'data-go': path, onClick: () => window.go(path) }, path),
        ),
      ),
      h(Suspense, { onResolve: () => window.__nuxt.callHook('app:suspense:resolve') }, { default: () => h(Stats) }),
    ]),
});

export async function start(plugin) {
  // A memory history: navigating must not change the address, or a reload would ask the server for another page.
  const history = createMemoryHistory();
  history.replace(options.route);
  const router = createRouter({ history, routes: [{ path: '/:path(.*)*', component: { render: () => null } }] });

  const app = createApp(Page);
  const nuxt = createNuxtApp(app, router);
  window.__nuxt = nuxt;
  window.__messages = messages;
  window.__errors = errors;
  window.go = (path) => router.push(path);
  window.leave = () => {
    app.unmount();
    live.mounted = false;
  };
  Object.defineProperty(window, '__live', { get: () => JSON.parse(JSON.stringify(live)) });
  window.addEventListener('error', (event) => errors.push(String(event.error ?? event.message)));
  window.addEventListener('unhandledrejection', (event) => errors.push(String(event.reason)));

  nuxt.hook('skew:message', (message) => {
    messages.push(message);
  });
  // The package offers these two hooks to applications that want other connection settings.
  for (const name of ['skew:sse:config', 'skew:ws:config']) {
    nuxt.hook(name, (config) => {
      if (options.reconnect !== undefined) config.options.autoReconnect.delay = options.reconnect;
      if (options.heartbeat && name === 'skew:ws:config') config.options.heartbeat = true;
    });
  }

  // The order of a Nuxt page: the router is ready, then the plugins, then the initial route once more, then mounting.
  app.use(router);
  await router.isReady();
  const { provide } = await plugin(nuxt);
  for (const [name, value] of Object.entries(provide ?? {})) nuxt[`$${name}`] = value;
  await router.replace({ path: options.route, force: true });
  app.mount('#app');
  live.mounted = true;
}
