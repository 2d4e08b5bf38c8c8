// @vitest-environment jsdom
import { afterEach, beforeEach, expect, expectTypeOf, test, vi } from 'vitest';
import { type ComputedRef, createApp, createSSRApp, defineComponent, h, nextTick } from 'vue';
import { renderToString } from 'vue/server-renderer';
import { useRelease } from '../src/release-vue.js';
import { closeReleases, openRelease, passes } from './release-page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  closeReleases();
  vi.useRealTimers();
});

test('shows what is offered, does what its buttons say, and leaves with its component', async () => {
  const { stream, release, left } = openRelease({}, 'v1');
  const listened = vi.spyOn(release, 'subscribe');
  let live!: ReturnType<typeof useRelease>;
  const app = createApp(
    defineComponent({
      setup() {
        live = useRelease();
        return () => h('p', live.offered.value ? `${live.mine.value} to ${live.current.value}` : '');
      },
    }),
  );
  const root = document.createElement('div');
  app.mount(root);
  await passes(1);
  expect([root.textContent, live.outdated.value]).toEqual(['', false]);
  stream.says('v2');
  await nextTick();
  expect(root.textContent).toBe('v1 to v2');
  const remove = live.guard(() => false);
  expect([await live.reload(), live.reason.value]).toEqual(['guard', 'guard']);
  remove();
  live.dismiss();
  await nextTick();
  expect([root.textContent, live.outdated.value]).toEqual(['', true]);
  expect([await live.reload(), left()]).toEqual([null, ['reload']]);
  app.unmount();
  stream.says('v1');
  expect([live.outdated.value, listened.mock.calls.length]).toEqual([true, 1]);
});

test('has the names and types of the state', () => {
  const live = useRelease(openRelease().release);
  expectTypeOf(live.mine).toEqualTypeOf<ComputedRef<string>>();
  expectTypeOf(live.current).toEqualTypeOf<ComputedRef<string | undefined>>();
  expectTypeOf(live.outdated).toEqualTypeOf<ComputedRef<boolean | null>>();
  expectTypeOf(live.settled).toEqualTypeOf<ComputedRef<boolean>>();
  const names = 'current dismiss guard mine missing mode offered onOutdated outdated reason reload settled';
  expect(Object.keys(live).sort().join(' ')).toBe(names);
});

test('renders on a server what the browser renders first', async () => {
  const { release } = openRelease({}, 'v2');
  await passes(1);
  const app = createSSRApp(
    defineComponent({
      setup() {
        const { outdated } = useRelease(release);
        return () => h('p', `${outdated.value}`);
      },
    }),
  );
  expect(await renderToString(app)).toBe('<p>null</p>');
});

test('says what is missing when there is no release', async () => {
  vi.resetModules();
  const { useRelease } = await import('../src/release-vue.js');
  expect(() => useRelease()).toThrow('createRelease()');
});
