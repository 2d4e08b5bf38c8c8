// @vitest-environment jsdom
import { act, createElement as h, StrictMode, useState } from 'react';
import { createRoot, hydrateRoot, type Root } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { afterEach, describe, expect, expectTypeOf, test, vi } from 'vitest';
import type { ConnectionInfo } from '../src/index.js';
import { type ActiveConnections, HeadcountProvider, useActiveConnections } from '../src/react.js';
import { messages } from './fixtures.js';
import { openPage, settled } from './page.js';

const { stats, 'stats-delta': delta, 'stats-unauthorized': unauthorized } = messages.server;
(globalThis as any).IS_REACT_ACT_ENVIRONMENT = true;
const roots: Root[] = [];

afterEach(async () => {
  await act(() => {
    for (const root of roots.splice(0)) root.unmount();
  });
});

/** Renders a component below a provider, and says what it saw in each render. */
async function render<T>(use: () => T, { strict = false } = {}) {
  const page = openPage({ updateStrategy: 'ws' });
  const seen: T[] = [];
  const Component = () => {
    seen.push(use());
    return null;
  };
  const tree = h(HeadcountProvider, { headcount: page.headcount }, h(Component));
  const root = createRoot(document.createElement('div'));
  roots.push(root);
  await act(() => root.render(strict ? h(StrictMode, null, tree) : tree));
  return { page, seen, root, says: (message: object) => act(() => page.stream.says(message)) };
}

test('has the promised names and types', async () => {
  const { seen } = await render(() => useActiveConnections());
  const [live] = seen as [ActiveConnections];
  expectTypeOf(live.total).toEqualTypeOf<number>();
  expectTypeOf(live.versions).toEqualTypeOf<Record<string, number>>();
  expectTypeOf(live.routes).toEqualTypeOf<Record<string, number>>();
  expectTypeOf(live.connections).toEqualTypeOf<ConnectionInfo[]>();
  expectTypeOf(live.yourId).toEqualTypeOf<string | undefined>();
  expectTypeOf(live.authorized).toEqualTypeOf<boolean | null>();
  expect(live).toMatchObject({ total: 0, versions: {}, routes: {}, connections: [], authorized: null });
});

test.each([false, true])('is pending, then authorised, then denied (StrictMode: %s)', async (strict) => {
  const { page, seen, says } = await render(() => useActiveConnections(), { strict });
  expect(page.streams.filter(({ closed }) => !closed)).toHaveLength(1);
  await act(() => page.stream.connects());
  expect(page.stream.sent).toEqual([{ type: 'subscribe-stats', deltas: true }]);
  await says(stats);
  expect(seen.at(-1)).toMatchObject({ authorized: true, total: 2, yourId: 'c1' });
  await says(delta);
  expect(seen.at(-1)).toMatchObject({ total: 3, versions: { v1: 2, v2: 1 } });
  await says(unauthorized);
  expect(seen.at(-1)).toMatchObject({ authorized: false, total: 0 });
});

describe('a selector', () => {
  test('renders only when what it selects changes, also for an object made anew each time', async () => {
    const { page, seen, says } = await render(() => useActiveConnections(({ total, isStale }) => ({ total, isStale })));
    await act(() => page.stream.connects());
    await says(stats);
    const renders = seen.length;
    await says({ type: 'stats-delta', base: 7, revision: 8, total: 2, routes: { '/': 1, '/b': 1 } });
    expect(seen).toHaveLength(renders);
    await says({ type: 'stats-delta', base: 8, revision: 9, total: 3 });
    expect(seen).toHaveLength(renders + 1);
    expect(seen.at(-1)).toEqual({ total: 3, isStale: false });
  });

  test('may depend on what the component has', async () => {
    let setVersion!: (version: string) => void;
    const { page, seen, says } = await render(() => {
      const [version, set] = useState('v1');
      setVersion = set;
      return useActiveConnections(({ versions }) => versions[version] ?? 0);
    });
    await act(() => page.stream.connects());
    await says({ ...stats, versions: { v1: 2, v2: 7 } });
    expect(seen.at(-1)).toBe(2);
    await act(() => setVersion('v2'));
    expect(seen.at(-1)).toBe(7);
  });
});

test('however many components ask, there is one subscription, and it ends with the last of them', async () => {
  const page = openPage({ updateStrategy: 'ws' });
  const One = () =>
    h(
      'p',
      null,
      useActiveConnections(({ total }) => total, page.headcount),
    );
  const root = createRoot(document.createElement('div'));
  await act(() => root.render([h(One, { key: 1 }), h(One, { key: 2 })]));
  await page.stream.connects();
  expect(page.stream.sent).toHaveLength(1);
  await act(() => root.render([h(One, { key: 2 })]));
  await settled();
  expect(page.stream.closed).toBe(false);
  await act(() => root.unmount());
  await settled();
  expect(page.stream.closed).toBe(true);
});

test('renders on a server and takes over from it without a word of complaint', async () => {
  const complained = vi.spyOn(console, 'error');
  const page = openPage({ updateStrategy: 'ws' });
  const Total = () =>
    h(
      'p',
      null,
      useActiveConnections(({ total }) => total),
    );
  const tree = h(HeadcountProvider, { headcount: page.headcount }, h(Total));
  // Figures that are there before the page is taken over must not be in the first render.
  page.headcount.subscribe(() => {});
  await page.stream.connects();
  await page.stream.says(stats);
  const container = document.createElement('div');
  container.innerHTML = renderToString(tree);
  expect(container.innerHTML).toBe('<p>0</p>');
  await act(() => void roots.push(hydrateRoot(container, tree)));
  expect(container.innerHTML).toBe('<p>2</p>');
  expect(complained).not.toHaveBeenCalled();
});

test('says what is missing when there is no Headcount', async () => {
  vi.resetModules();
  const { useActiveConnections } = await import('../src/react.js');
  const Lost = () => h('p', null, useActiveConnections().total);
  expect(() => renderToString(h(Lost))).toThrow('<HeadcountProvider>');
});
