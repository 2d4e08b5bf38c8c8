// @vitest-environment jsdom
import { act, createElement as h, StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { afterEach, beforeEach, expect, expectTypeOf, test, vi } from 'vitest';
import { useRelease } from '../src/release-react.js';
import { closeReleases, openRelease, passes } from './release-page.js';

(globalThis as any).IS_REACT_ACT_ENVIRONMENT = true;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  closeReleases();
  vi.useRealTimers();
});

test('shows what is offered, under StrictMode as well, and does what its buttons say', async () => {
  const { release, stream, left } = openRelease({}, 'v1');
  await passes(1);
  let live!: ReturnType<typeof useRelease>;
  const Prompt = () => {
    live = useRelease();
    return live.offered ? `${live.mine} to ${live.current}` : null;
  };
  const container = document.createElement('div');
  const root = createRoot(container);
  await act(() => root.render(h(StrictMode, null, h(Prompt))));
  expect([container.textContent, live.outdated]).toEqual(['', false]);
  await act(() => stream.says('v2'));
  expect(container.textContent).toBe('v1 to v2');
  await act(() => live.dismiss());
  expect([container.textContent, live.outdated]).toEqual(['', true]);
  await act(async () => {
    expect(await live.reload()).toBeNull();
  });
  expect(left()).toEqual(['reload']);
  await act(() => release.close());
  expect([container.textContent, live.mine]).toEqual(['', 'v1']);
  await act(() => root.unmount());
});

test('has plain values of the types of the state, and the event', () => {
  expectTypeOf<ReturnType<typeof useRelease>['outdated']>().toEqualTypeOf<boolean | null>();
  const { release } = openRelease();
  const Page = () => `${useRelease(release).outdated} ${typeof useRelease(release).onOutdated}`;
  expect(renderToString(h(Page))).toBe('null function');
});

test('says what is missing when there is no release', async () => {
  vi.resetModules();
  const { useRelease } = await import('../src/release-react.js');
  const Page = () => useRelease().mine;
  expect(() => renderToString(h(Page))).toThrow('createRelease()');
});
