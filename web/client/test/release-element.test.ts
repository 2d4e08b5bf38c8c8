// @vitest-environment jsdom
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import '../src/release-element.js';
import { latestRelease, type Reason } from '../src/release.js';
import { closeReleases, openRelease, passes } from './release-page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  closeReleases();
  vi.useRealTimers();
});

async function shown(attributes: Record<string, string> = {}) {
  const page = openRelease({}, 'v1');
  const element = document.createElement('headcount-update');
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  document.body.append(element);
  await passes(1);
  const part = (name: string) => element.shadowRoot!.querySelector<HTMLElement>(`[part=${name}]`)!;
  return { ...page, element, part, text: (name: string) => part(name).textContent };
}

test('is hidden and empty until there is something to offer, so that the text is announced when it comes', async () => {
  const { element, stream, part, text } = await shown();
  expect([element.hidden, part('box').textContent, part('box').getAttribute('role')]).toEqual([true, '', 'status']);
  stream.says('v2');
  expect([element.hidden, text('message'), text('reload'), text('dismiss'), text('reason')]).toEqual([
    false,
    'A new version is available.',
    'Reload',
    'Not now',
    '',
  ]);
  stream.says('v1');
  expect([element.hidden, part('box').textContent]).toEqual([true, '']);
});

test('reloads, or leaves the page as it is, as its user says', async () => {
  const { element, stream, site, part, left } = await shown();
  stream.says('v2');
  part('dismiss').click();
  expect([element.hidden, left()]).toEqual([true, []]);
  site.document = 'v3';
  stream.says('v3');
  expect(element.hidden).toBe(false);
  part('reload').click();
  await passes(1);
  expect(left()).toEqual(['reload']);
});

test.each<[Reason, string]>([
  ['guard', 'not finished'],
  ['unserved', 'not available here yet'],
])('says why there is no reload: %s', async (reason, sentence) => {
  const { release, stream, site, part, text } = await shown();
  if (reason === 'guard') release.guard(() => false);
  else site.document = 'v1';
  stream.says('v2');
  part('reload').click();
  await passes(1);
  expect(text('reason')).toContain(sentence);
});

test('has the words of its page', async () => {
  const { element, stream, text } = await shown({ label: 'Neue Fassung', 'reload-label': 'Laden' });
  stream.says('v2');
  element.setAttribute('dismiss-label', 'Später');
  expect([text('message'), text('reload'), text('dismiss')]).toEqual(['Neue Fassung', 'Laden', 'Später']);
});

test('shows the release that it is given, and lets go of the one before', async () => {
  const { element, stream, text } = await shown();
  const other = openRelease({}, 'v7');
  await passes(1);
  element.release = other.release;
  expect(text('message')).toBe('A new version is available.');
  other.stream.says('v1');
  stream.says('v2');
  expect(element.hidden).toBe(true);
  element.remove();
  other.stream.says('v7');
  expect(element.hidden).toBe(true);
});

test('without a release on the page, makes one from its attributes', async () => {
  vi.resetModules();
  customElements.define('headcount-update-alone', (await import('../src/release-element.js')).HeadcountUpdateElement);
  const element = document.createElement('headcount-update-alone') as HTMLElementTagNameMap['headcount-update'];
  for (const [name, value] of [
    ['version', 'v5'],
    ['mode', 'idle'],
    ['base-path', '/live'],
  ])
    element.setAttribute(name!, value!);
  const fetch = vi.spyOn(window, 'fetch').mockResolvedValue(Response.json({ currentVersion: 'v5' }));
  document.body.append(element);
  await passes(1);
  expect(element.release).toMatchObject({ mine: 'v5', mode: 'idle', outdated: false });
  expect(element.release).not.toBe(latestRelease());
  expect(String(fetch.mock.calls[0]![0])).toMatch(/\/live\/health\?version=v5$/);
  element.release.close();
});
