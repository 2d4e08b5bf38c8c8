// @vitest-environment jsdom
/** What a page tells the server that it does about a release. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Mode } from '../src/release.js';
import { closeReleases, openRelease, passes } from './release-page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  closeReleases();
  vi.useRealTimers();
});

/** A page that has been asked by the server to come to v2. */
async function openAsked(mode: Mode, prepare: (page: ReturnType<typeof openRelease>) => void = () => {}) {
  const page = openRelease({ mode }, 'v1');
  prepare(page);
  await passes(1);
  page.stream.says('v2', 7, true);
  await passes(1);
  return page;
}

test('a page says that it accepts right before it reloads, and once', async () => {
  const { stream, left } = await openAsked('immediate', ({ stream, location }) => {
    location.reload.mockImplementation(() => expect(stream.replies).toEqual(['accepted']));
  });
  await passes(20);
  expect(left()).toEqual(['reload']);
  expect(stream.replies).toEqual(['accepted']);
});

test('a page that something keeps says what, once for each change', async () => {
  let isFree = false;
  const { release, stream, site, left } = await openAsked('immediate', ({ release }) => release.guard(() => isFree));
  await passes(60);
  expect(stream.replies).toEqual(['deferred guard']);
  site.document = 'v1';
  isFree = true;
  await passes(60);
  expect([release.reason, stream.replies]).toEqual(['unserved', ['deferred guard', 'deferred unserved']]);
  site.document = 'v2';
  await passes(300);
  expect(left()).not.toEqual([]);
  expect(stream.replies.slice(2)).toEqual(['accepted']);
});

test('a page whose reload takes long still accepts, and one that was reloaded in vain says that it waits', async () => {
  const { release, stream } = await openAsked('immediate');
  await passes(20);
  expect([release.reason, stream.replies]).toEqual(['early', ['accepted']]);
  release.close();
  expect((await openAsked('immediate')).stream.replies).toEqual(['deferred early']);
});

test('a page whose storage is full says so', async () => {
  const { stream, release } = openRelease({ mode: 'immediate' }, 'v1');
  const full = vi.spyOn(Storage.prototype, 'setItem').mockImplementation(() => {
    throw new DOMException('full', 'QuotaExceededError');
  });
  await passes(1);
  stream.says('v2', 7, true);
  await passes(5);
  full.mockRestore();
  expect([release.reason, stream.replies]).toEqual(['storage', ['deferred storage']]);
});

describe('a page that asks its user', () => {
  test('says nothing before they click, whatever keeps it', async () => {
    const { release, stream } = await openAsked('prompt', ({ release }) => release.guard(() => false));
    await passes(60);
    expect(stream.replies).toEqual([]);
    expect(await release.reload()).toBe('guard');
    expect(stream.replies).toEqual(['deferred guard']);
  });

  test('says that they refused, and that they changed their mind', async () => {
    const { release, stream } = await openAsked('prompt');
    release.dismiss();
    await passes(60);
    expect(stream.replies).toEqual(['refused']);
    await release.reload();
    expect(stream.replies).toEqual(['refused', 'accepted']);
  });

  test('says that they refused in another tab', async () => {
    const { release } = await openAsked('prompt');
    const { stream } = await openAsked('prompt');
    release.dismiss();
    await passes(1);
    expect(stream.replies).toEqual(['refused']);
  });
});

describe('a page that reloads at the next navigation', () => {
  test('says what keeps it only when its user navigates', async () => {
    let isFree = false;
    const { stream, navigate } = await openAsked('next-navigation', ({ release }) => release.guard(() => isFree));
    await passes(20);
    expect(stream.replies).toEqual([]);
    navigate('/a');
    expect(stream.replies).toEqual(['deferred guard']);
    isFree = true;
    navigate('/b');
    expect(stream.replies).toEqual(['deferred guard', 'accepted']);
  });

  test('says that a guard that throws keeps it', async () => {
    const { stream, navigate } = await openAsked('next-navigation', ({ release }) =>
      release.guard(() => {
        throw new Error('of the application');
      }),
    );
    navigate('/a');
    expect(stream.replies).toEqual(['deferred guard']);
  });

  test('says that the version is not served', async () => {
    const { stream, navigate } = await openAsked('next-navigation', ({ site }) => {
      site.document = 'v1';
    });
    navigate('/a');
    expect(stream.replies).toEqual(['deferred unserved']);
  });

  test('says that its last reload was in vain', async () => {
    const { stream, navigate } = await openAsked('next-navigation');
    navigate('/a');
    expect(stream.replies).toEqual(['accepted']);
    const { stream: after, navigate: navigateAgain } = await openAsked('next-navigation');
    await passes(20);
    expect(after.replies).toEqual([]);
    navigateAgain('/b');
    expect(after.replies).toEqual(['deferred early']);
  });
});

test('a page that is hidden or not idle says nothing until it would reload', async () => {
  const { stream, setHidden } = await openAsked('hidden', ({ release }) => release.guard(() => false));
  await passes(20);
  expect(stream.replies).toEqual([]);
  setHidden(true);
  await passes(1);
  expect(stream.replies).toEqual(['deferred guard']);
});

test('a page that is asked again, as by another node, answers again', async () => {
  const { stream } = await openAsked('immediate', ({ release }) => release.guard(() => false));
  stream.says('v2', 7, true);
  await passes(10);
  expect(stream.replies).toEqual(['deferred guard', 'deferred guard']);
});

test.each([
  ['of a server that does not ask', 'v2', undefined],
  ['of a version that is its own', 'v1', true],
] as const)('a page says nothing about a release %s', async (_, version, reply) => {
  const { release, stream } = openRelease({ mode: 'prompt' }, version);
  await passes(1);
  stream.says(version, 7, reply);
  release.dismiss();
  await passes(10);
  await release.reload();
  expect(stream.replies).toEqual([]);
});

test('a page that leaves it to the application says nothing', async () => {
  const { stream } = await openAsked('immediate', ({ release }) =>
    release.onOutdated((event) => event.preventDefault()),
  );
  await passes(20);
  expect(stream.replies).toEqual([]);
});
