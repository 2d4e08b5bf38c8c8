// @vitest-environment jsdom
import { afterEach, expect, test, vi } from 'vitest';
import '../src/element.js';
import type { ActiveConnectionsElement } from '../src/element.js';
import { messages } from './fixtures.js';
import { openPage, settled } from './page.js';

const { stats } = messages.server;

afterEach(() => document.body.replaceChildren());

async function shown(attributes: Record<string, string> = {}) {
  const page = openPage({ updateStrategy: 'ws' });
  const element = document.createElement('active-connections');
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.headcount = page.headcount;
  document.body.append(element);
  await page.stream.connects();
  const root = element.shadowRoot!;
  const texts = (part: string) => [...root.querySelectorAll(`[part=${part}]`)].map(({ textContent }) => textContent);
  return { page, element, root, texts };
}

test('says that it waits, what it sees, and that it may not see it', async () => {
  const { page, texts } = await shown({ label: 'people are here' });
  expect(texts('message')).toEqual(['Waiting for figures']);
  await page.stream.says(stats);
  expect(texts('message')).toEqual([]);
  expect([texts('total'), texts('label')]).toEqual([['2'], ['people are here']]);
  await page.stream.says(messages.server['stats-unauthorized']);
  expect(texts('message')).toEqual(['Not authorised for live stats']);
});

test('says what is wrong instead of waiting for ever', async () => {
  const { page, texts } = await shown();
  page.headcount.reconnect();
  await settled();
  expect(texts('message')).toEqual(['Waiting for figures']);
  await page.stream.answers(404, { 'content-type': 'text/html' });
  const wrong = 'https://shop.example/__skew answered 404 (text/html). Is it passed on to Headcount?';
  expect(texts('message')).toEqual([wrong]);
  page.headcount.reconnect();
  await page.stream.connects();
  expect(texts('message')).toEqual(['Waiting for figures']);
});

test('shows what is asked for, most first, whatever the labels are made of', async () => {
  const { page, element, texts } = await shown({ show: 'versions' });
  await page.stream.says({ ...stats, versions: { v1: 1, '<img src=x>': 5 } });
  expect(texts('total')).toEqual([]);
  expect(texts('name')).toEqual(['<img src=x>', 'v1']);
  expect(texts('count')).toEqual(['5', '1']);
  element.setAttribute('show', 'total routes');
  expect([texts('total'), texts('name')]).toEqual([['2'], ['/']]);
});

test('speaks only when the total is another one', async () => {
  const { page, root } = await shown();
  await page.stream.says(stats);
  const live = root.querySelector('div')!;
  expect(live.ariaLive).toBe('polite');
  const before = live.firstChild;
  await page.stream.says({ ...stats, routes: { '/b': 2 } });
  expect(live.firstChild).toBe(before);
  await page.stream.says({ ...stats, total: 3 });
  expect(live.firstChild).not.toBe(before);
});

test('marks old figures', async () => {
  const { page, element } = await shown();
  await page.stream.says(stats);
  expect(element.dataset.stale).toBeUndefined();
  await page.stream.breaks();
  expect(element.dataset.stale).toBe('');
});

test('stops with its removal, and may be put in again or be given another Headcount', async () => {
  const { page, element, texts } = await shown();
  element.remove();
  await settled();
  expect(page.stream.closed).toBe(true);
  document.body.append(element);
  expect(page.streams).toHaveLength(2);
  const other = openPage({ updateStrategy: 'ws' });
  element.headcount = other.headcount;
  await settled();
  expect(page.stream.closed).toBe(true);
  await other.stream.connects();
  await other.stream.says({ ...stats, total: 7 });
  expect(texts('total')).toEqual(['7']);
});

test('takes the Headcount of the page, else makes one from its attributes and counts the page', async () => {
  const page = openPage();
  const element = document.createElement('active-connections');
  expect(element.headcount).toBe(page.headcount);
  vi.resetModules();
  const urls: string[] = [];
  vi.stubGlobal(
    'WebSocket',
    class {
      constructor(url: string) {
        urls.push(url);
      }
      close() {}
    },
  );
  const { ActiveConnectionsElement: Fresh } = await import('../src/element.js');
  customElements.define('fresh-one', class extends Fresh {});
  const own = document.createElement('fresh-one') as ActiveConnectionsElement;
  own.setAttribute('version', 'v7');
  own.setAttribute('base-path', '/live');
  document.body.append(own);
  expect(urls, 'a script may be about to make one').toEqual([]);
  await settled();
  expect(urls).toEqual(['ws://localhost:3000/live/ws?version=v7']);
  own.headcount.close();
  vi.unstubAllGlobals();
});

test('waits for the scripts of a page that is loading, and takes the Headcount that they make', async () => {
  vi.resetModules();
  const { ActiveConnectionsElement: Fresh } = await import('../src/element.js');
  customElements.define('early-one', class extends Fresh {});
  const state = vi.spyOn(document, 'readyState', 'get').mockReturnValue('interactive');
  const early = document.createElement('early-one') as ActiveConnectionsElement;
  const gone = document.createElement('early-one') as ActiveConnectionsElement;
  document.body.append(early, gone);
  gone.remove();
  const { createHeadcount } = await import('../src/index.js');
  const made = createHeadcount({ window: openPage().window });
  const subscribed = vi.spyOn(made, 'subscribe');
  state.mockReturnValue('complete');
  window.dispatchEvent(new Event('load'));
  expect(early.headcount).toBe(made);
  expect(subscribed).toHaveBeenCalledOnce();
  early.remove();
});
