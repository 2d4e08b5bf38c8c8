// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type Guard,
  latestRelease,
  type Mode,
  type OutdatedEvent,
  type ReleaseOptions,
  type ReleaseState,
} from '../src/release.js';
import { closeReleases, openRelease, passes } from './release-page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  closeReleases();
  vi.useRealTimers();
});

const typeIn = (html: string) => {
  document.body.innerHTML = html;
  const field = document.body.querySelector('input')!;
  field.value = 'a';
  field.dispatchEvent(new InputEvent('input', { bubbles: true, inputType: 'insertText' }));
  return field;
};

const throwing = () => {
  throw new Error('of the application');
};

describe('what a page knows', () => {
  test('is nothing until the server says which version is current', async () => {
    const { release, stream } = openRelease();
    await passes(1);
    expect(release).toMatchObject({ mine: 'v1', current: undefined, outdated: null, settled: false, offered: false });
    stream.says('v1');
    expect(release).toMatchObject({ current: 'v1', outdated: false, settled: true, offered: false });
    stream.says('v2');
    expect(release).toMatchObject({ current: 'v2', outdated: true, settled: true, offered: true, mode: 'prompt' });
    stream.says(undefined);
    expect(release).toMatchObject({ outdated: null, settled: false, offered: false });
    expect(latestRelease()).toBe(release);
  });

  test('is a store of immutable states that changes only when something does', async () => {
    const { release, stream } = openRelease({}, 'v1');
    const seen: ReleaseState[] = [];
    const leave = release.subscribe((state) => seen.push(state));
    await passes(5);
    expect(seen.map(({ outdated }) => outdated)).toEqual([null, false]);
    stream.says('v2');
    expect(seen.at(-1)).toBe(release.getSnapshot());
    expect(seen.map(({ outdated }) => outdated)).toEqual([null, false, true]);
    expect(release.getServerSnapshot()).toBe(seen[0]);
    leave();
    stream.says('v1');
    expect(seen).toHaveLength(3);
  });

  test('comes from the health of the server while there is no stream', async () => {
    const { release, site, polls, fetch } = openRelease({
      headcount: undefined,
      basePath: '/live/',
      url: 'https://live.example',
    });
    site.health = { version: 'v2', currentVersion: 'v2' };
    await passes(0);
    expect(fetch.mock.calls[0]![0]).toBe('https://live.example/live/health?version=v1');
    expect(release.outdated).toBe(true);
    site.health = undefined;
    await passes(120);
    expect([polls() > 1, release.outdated]).toEqual([true, true]);
    for (const health of [{}, { currentVersion: 7 }, { currentVersion: null }]) {
      site.health = health;
      await passes(60);
      expect(release.outdated).toBeNull();
    }
    expect(polls()).toBeLessThan(14);
  });

  test('is not asked for while the stream is open, and is once it has been away for half a minute', async () => {
    const { release, stream, site, polls } = openRelease({}, 'v1');
    await passes(600);
    expect(polls()).toBe(0);
    stream.breaks();
    site.health = { currentVersion: 'v2' };
    await passes(29);
    expect([polls(), release.outdated]).toEqual([0, false]);
    await passes(3);
    expect([polls(), release.outdated]).toEqual([1, true]);
  });
});

describe('a prompt', () => {
  test('waits for its user, then checks and reloads', async () => {
    const { release, stream, checks, left } = openRelease();
    stream.says('v2');
    await passes(600);
    expect([checks(), left()]).toEqual([0, []]);
    expect(await release.reload()).toBeNull();
    expect([checks(), left()]).toEqual([1, ['reload']]);
  });

  test('says that the page is of the current version', async () => {
    const { release, left } = openRelease({}, 'v1');
    await passes(1);
    expect([await release.reload(), left()]).toEqual(['current', []]);
  });

  test.each([{ document: 'v1' }, { status: 503 }, { redirected: true }])(
    'does not reload for %j, because that would not bring the version',
    async (answer) => {
      const { release, site, left } = openRelease({}, 'v2');
      Object.assign(site, answer);
      await passes(1);
      expect([await release.reload(), left(), release.reason]).toEqual(['unserved', [], 'unserved']);
      expect(sessionStorage['headcount-release']).toBeUndefined();
    },
  );

  test('believes the server where the document says nothing of its version', async () => {
    const { release, site, left } = openRelease({}, 'v2');
    site.document = '';
    site.health = { version: 'v1' };
    await passes(1);
    expect(await release.reload()).toBe('unserved');
    site.health = { version: 'v2' };
    expect([await release.reload(), left()]).toEqual([null, ['reload']]);
  });

  test('asks the application where it knows better', async () => {
    const isServed = vi.fn(async (version?: string) => version === 'v3');
    const { release, stream, checks, left } = openRelease({ isServed }, 'v2');
    await passes(1);
    expect(await release.reload()).toBe('unserved');
    stream.says('v3');
    expect([await release.reload(), left(), checks()]).toEqual([null, ['reload'], 0]);
    isServed.mockRejectedValue(new Error());
    await passes(31);
    expect(await release.reload()).toBe('unserved');
  });
});

describe('an event', () => {
  test('comes once a version, and keeps the module from acting when it is cancelled', async () => {
    const events: OutdatedEvent[] = [];
    const { release, stream, site, left } = openRelease({
      mode: 'immediate',
      onOutdated: (event) => events.push(event),
    });
    const leave = release.onOutdated((event) => event.preventDefault());
    await passes(1);
    stream.says('v2');
    stream.says(undefined);
    stream.says('v2');
    await passes(60);
    expect(events.map(({ mine, current }) => [mine, current])).toEqual([['v1', 'v2']]);
    expect(release).toMatchObject({ outdated: true, offered: false });
    expect(left()).toEqual([]);
    leave();
    site.document = 'v3';
    stream.says('v3');
    await passes(1);
    expect([events.length, left()]).toEqual([2, ['reload']]);
  });

  test('whose listener throws stops nothing', async () => {
    const { release, stream } = openRelease({ onOutdated: throwing });
    stream.says('v2');
    expect(release.offered).toBe(true);
    await expect(passes(0)).rejects.toThrow('of the application');
  });
});

describe('modes', () => {
  test.each<[Mode, string[]]>([
    ['prompt', []],
    ['next-navigation', []],
    ['hidden', []],
    ['idle', []],
    ['immediate', ['reload']],
  ])('%s', async (mode, expected) => {
    const { left } = openRelease({ mode }, 'v2');
    await passes(20);
    expect(left()).toEqual(expected);
  });

  test('hidden: when nobody looks', async () => {
    const { left, checks, setHidden } = openRelease({ mode: 'hidden' }, 'v2');
    await passes(60);
    expect(checks()).toBe(0);
    setHidden(true);
    await passes(0);
    expect(left()).toEqual(['reload']);
  });

  test('hidden: not when the user came back during the check', async () => {
    let answer = (_: boolean) => {};
    const isServed = () => new Promise<boolean>((resolve) => (answer = resolve));
    const { left, setHidden } = openRelease({ mode: 'hidden', isServed }, 'v2');
    await passes(1);
    setHidden(true);
    await passes(1);
    setHidden(false);
    answer(true);
    await passes(5);
    expect(left()).toEqual([]);
  });

  test('idle: a minute after the last touch', async () => {
    const { left } = openRelease({ mode: 'idle' }, 'v2');
    for (let time = 0; time < 5; time++) {
      await passes(50);
      window.dispatchEvent(new Event('keydown'));
    }
    await passes(59);
    expect(left()).toEqual([]);
    await passes(2);
    expect(left()).toEqual(['reload']);
  });

  test('pages that act by themselves do not come all at once', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.9);
    const { left } = openRelease({ mode: 'immediate', spreadMs: 10_000 }, 'v2');
    await passes(8);
    expect(left()).toEqual([]);
    await passes(2);
    expect(left()).toEqual(['reload']);
  });

  describe('next-navigation', () => {
    test('goes to the full target once the version is served', async () => {
      const { site, stream, navigate, pushed, left } = openRelease({ mode: 'next-navigation' }, 'v1');
      site.document = 'v1';
      stream.says('v2');
      await passes(1);
      navigate('/too-early');
      expect([pushed.mock.calls, left()]).toEqual([[[{ some: 'state' }, '', '/too-early']], []]);
      site.document = 'v2';
      await passes(20);
      navigate('/products/7?colour=blue#sizes');
      expect(left()).toEqual(['https://shop.example/products/7?colour=blue#sizes']);
      expect(pushed).toHaveBeenCalledTimes(1);
    });

    test.each([null, '#other', '/cart?step=2#pay', 'https://other.example/'])(
      'leaves to the router what loads no other document of this site: %s',
      async (url) => {
        const { navigate, pushed, left } = openRelease({ mode: 'next-navigation' }, 'v2');
        await passes(1);
        navigate(url);
        expect([pushed.mock.calls.length, left()]).toEqual([1, []]);
      },
    );

    test.each<[string, Guard]>([
      ['says no', () => false],
      ['would answer later', async () => true],
      ['throws', throwing],
    ])('stays while a guard %s', async (_, guard) => {
      const { release, navigate, pushed, left } = openRelease({ mode: 'next-navigation' }, 'v2');
      await passes(1);
      const remove = release.guard(guard);
      navigate('/products');
      expect([pushed.mock.calls.length, left()]).toEqual([1, []]);
      remove();
      navigate('/products');
      expect([pushed.mock.calls.length, left()]).toEqual([1, ['https://shop.example/products']]);
    });

    test('stays with a form that is filled, and when the release is closed', async () => {
      const { release, navigate, pushed, left } = openRelease({ mode: 'next-navigation' }, 'v2');
      await passes(1);
      typeIn('<form><input></form>');
      navigate('/products');
      document.querySelector('form')!.reset();
      release.close();
      navigate('/products');
      expect([pushed.mock.calls.length, left()]).toEqual([2, []]);
    });
  });
});

describe('guards', () => {
  test.each<[string, Guard]>([
    ['says no', () => false],
    ['says no later', async () => false],
    ['throws', throwing],
    ['rejects', () => Promise.reject(new Error())],
    ['forgets to return', (() => {}) as never],
  ])('one that %s keeps the page, and lets it go once it is removed', async (_, guard) => {
    const { release, left, checks } = openRelease({ mode: 'immediate' }, 'v2');
    const remove = release.guard(guard);
    await passes(60);
    expect([left(), checks(), release.reason]).toEqual([[], 0, 'guard']);
    remove();
    await passes(10);
    expect(left()).toEqual(['reload']);
  });

  test('the application keeps its page until its guard says yes', async () => {
    let saved = false;
    const { release, left, checks } = openRelease({ mode: 'immediate' }, 'v2');
    release.guard(() => saved);
    release.guard(async () => true);
    await passes(120);
    expect([left(), checks(), release.reason]).toEqual([[], 0, 'guard']);
    expect(await release.reload()).toBe('guard');
    saved = true;
    await passes(10);
    expect(left()).toEqual(['reload']);
  });

  test('a promise keeps the page until it settles, however', async () => {
    for (const settle of [Promise.resolve.bind(Promise), Promise.reject.bind(Promise)]) {
      const { release, left } = openRelease({ mode: 'immediate' }, 'v2');
      let end = (_: unknown) => {};
      release.guard(new Promise((resolve) => (end = resolve)));
      await passes(60);
      expect([left(), release.reason]).toEqual([[], 'guard']);
      const ended = settle('saved');
      ended.catch(() => {});
      end(ended);
      await passes(10);
      expect(left()).toEqual(['reload']);
      closeReleases();
    }
  });

  test('a page that cannot be asked stays, and can be asked again', async () => {
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    const field = typeIn('<form><input name="closest"></form>');
    // In browsers the field of this name hides the method of its form.
    Object.defineProperty(field.form, 'closest', { value: field });
    expect([await release.reload(), await release.reload(), left()]).toEqual(['guard', 'guard', []]);
    field.form!.remove();
    expect([await release.reload(), left()]).toEqual([null, ['reload']]);
  });

  test('a form that is filled while the page checks is not lost', async () => {
    let answer = (_: boolean) => {};
    const { release, left } = openRelease(
      { isServed: () => new Promise<boolean>((resolve) => (answer = resolve)) },
      'v2',
    );
    await passes(1);
    const reloaded = release.reload();
    await passes(1);
    typeIn('<form><input></form>');
    answer(true);
    expect([await reloaded, left()]).toEqual(['form', []]);
  });
});

describe('a reload that does not bring the version', () => {
  test.each<Mode>(['immediate', 'hidden', 'idle'])(
    'is tried again later, three times in all, then never: %s',
    async (mode) => {
      const times: number[] = [];
      const start = Date.now();
      for (let page = openRelease({ mode }, 'v2'); ; ) {
        page.setHidden(mode !== 'immediate');
        let seconds = 0;
        while (!page.left().length && seconds++ < 7200) await passes(1);
        if (!page.left().length) {
          expect(page.release.reason).toBe('exhausted');
          expect(await page.release.reload()).toBe('exhausted');
          break;
        }
        times.push(Math.round((Date.now() - start) / 1000));
        page.release.close();
        page = openRelease({ mode }, 'v2');
      }
      expect(times).toHaveLength(3);
      const [first, second, third] = times as [number, number, number];
      expect(first).toBeLessThan(5);
      // A page is looked at once a second.
      expect(second - first).toBeGreaterThanOrEqual(29);
      expect(third - second).toBeGreaterThanOrEqual(299);
    },
  );

  test('gives a tab three reloads for each release, also of a version that it has had before', async () => {
    let mine = 'v1';
    for (let number = 1; number <= 8; number++) {
      const version = mine === 'v1' ? 'v2' : 'v1';
      const page = openRelease({ mode: 'immediate', version: mine });
      page.site.document = version;
      page.stream.says(version, number);
      await passes(2);
      expect([number, page.left()]).toEqual([number, ['reload']]);
      page.release.close();
      mine = version;
    }
  });

  test('is tried again at once when the version is released again', async () => {
    const { release, stream, left } = openRelease({}, 'v2');
    stream.says('v2', 7);
    const now = vi.spyOn(Date, 'now');
    const start = Date.now();
    for (let time = 0; time < 3; time++) {
      now.mockReturnValue(start + time * 600_000);
      expect(await release.reload()).toBeNull();
    }
    expect(await release.reload()).toBe('exhausted');
    // A node of an older Headcount names the version alone.
    stream.says('v2');
    expect(await release.reload()).toBe('exhausted');
    stream.says('v2', 8);
    expect([await release.reload(), left().length]).toEqual([null, 4]);
  });

  test('counts for the release that the health of the server names', async () => {
    const { release, site } = openRelease({ headcount: undefined });
    for (const [number, reason] of [
      [7, null],
      [7, 'early'],
      ['8', 'early'],
      [8, null],
    ]) {
      site.health = { currentVersion: 'v2', release: { state: 'declared', version: 'v2', number } };
      await passes(61);
      vi.spyOn(Date, 'now').mockReturnValue(1e12);
      expect([number, await release.reload()]).toEqual([number, reason]);
      vi.mocked(Date.now).mockRestore();
    }
  });

  test('says so to a user who is faster', async () => {
    const { release } = openRelease({}, 'v2');
    await passes(1);
    await release.reload();
    expect([await release.reload(), release.reason]).toEqual(['early', 'early']);
  });

  test('checks are no reloads: a page waits for the version as long as it takes', async () => {
    const { site, checks, left } = openRelease({ mode: 'immediate' }, 'v2');
    site.document = 'v1';
    await passes(3600);
    expect([left(), checks() > 10, checks() < 40]).toEqual([[], true, true]);
    site.document = 'v2';
    await passes(450);
    expect(left()[0]).toBe('reload');
  });
});

describe('where the storage is forbidden', () => {
  test.each([['sessionStorage'], ['sessionStorage', 'localStorage']])('no page reloads: %s', async (...forbid) => {
    const { release, left } = openRelease({ mode: 'immediate' }, 'v2', forbid);
    await passes(600);
    expect([left(), release.reason, await release.reload()]).toEqual([[], 'storage', 'storage']);
  });

  test('nor where it stores nothing', async () => {
    vi.spyOn(Storage.prototype, 'setItem').mockImplementation(() => {});
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    expect([await release.reload(), left()]).toEqual(['storage', []]);
  });

  test('a dismissal holds for the tab', async () => {
    const { release, stream } = openRelease({}, 'v2', ['localStorage']);
    await passes(1);
    release.dismiss();
    await passes(10);
    expect(release.offered).toBe(false);
    stream.says('v3');
    expect(release.offered).toBe(true);
  });
});

describe('the tabs of a browser', () => {
  test('dismiss a version together, and not the next one', async () => {
    const [one, two] = [openRelease({}, 'v2'), openRelease({ mode: 'immediate', version: 'v0', spreadMs: 1e9 }, 'v2')];
    await passes(1);
    expect([one.release.offered, two.release.offered]).toEqual([true, true]);
    one.release.dismiss();
    await passes(1);
    expect([one.release.offered, two.release.offered, two.release.outdated]).toEqual([false, false, true]);
    two.stream.says('v3');
    expect(two.release.offered).toBe(true);
  });

  test('reload each for itself', async () => {
    const [one, two] = [openRelease({}, 'v2'), openRelease({}, 'v2')];
    await passes(1);
    await one.release.reload();
    await passes(60);
    expect([one.left(), two.left()]).toEqual([['reload'], []]);
  });

  test('the user of a page that was dismissed may still reload it', async () => {
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    release.dismiss();
    expect([await release.reload(), left()]).toEqual([null, ['reload']]);
  });
});

describe('a part of the page that is missing', () => {
  const preloadError = () => window.dispatchEvent(new Event('vite:preloadError', { cancelable: true }));
  const rejects = (message: string) =>
    window.dispatchEvent(Object.assign(new Event('unhandledrejection'), { reason: new TypeError(message) }));

  test.each([
    'Failed to fetch dynamically imported module: https://shop.example/assets/Cart-1a2b3c4d.js',
    'error loading dynamically imported module: https://shop.example/assets/Cart-1a2b3c4d.js',
    'Importing a module script failed.',
    'Loading chunk 7 failed.',
    'Loading CSS chunk 7 failed.',
  ])('is noticed: %s', async (message) => {
    const { release, left } = openRelease({ mode: 'immediate' }, 'v1');
    await passes(1);
    rejects(message);
    expect(release).toMatchObject({ missing: true, outdated: false, offered: true });
    await passes(2);
    expect(left()).toEqual(['reload']);
  });

  test('is not what another error says', async () => {
    const { release } = openRelease({ mode: 'immediate' }, 'v1');
    rejects('Failed to fetch');
    await passes(1);
    expect(release.missing).toBe(false);
  });

  test('of the version that is still served does not reload the page: the network is at fault', async () => {
    const { release, site, left } = openRelease({ mode: 'immediate' });
    site.document = 'v1';
    preloadError();
    await passes(60);
    expect([left(), release.reason]).toEqual([[], 'unserved']);
  });

  test('is offered in the mode prompt, and held by guards', async () => {
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    release.dismiss();
    preloadError();
    typeIn('<form><input></form>');
    await passes(60);
    expect([left(), await release.reload()]).toEqual([[], 'form']);
  });

  test('brings its user to where they wanted to go', async () => {
    const { left } = openRelease({ mode: 'next-navigation' }, 'v2');
    await passes(1);
    document.body.innerHTML = '<a href="/products?page=2#last"><b>Products</b></a>';
    document.body.addEventListener('click', (event) => event.preventDefault(), { once: true });
    document.querySelector('b')!.click();
    preloadError();
    await passes(1);
    expect(left()).toEqual(['https://shop.example/products?page=2#last']);
  });

  test('may be named by a router, with the place', async () => {
    const { release, left } = openRelease({ mode: 'immediate' }, 'v1');
    await passes(1);
    release.recover('/orders?open=1');
    await passes(1);
    expect(left()).toEqual(['https://shop.example/orders?open=1']);
  });

  test.each(['http://', 'javascript:alert(1)', '', 'mailto:a@shop.example'])(
    'is not stopped by a link to %j',
    async (href) => {
      const { left } = openRelease({ mode: 'immediate' }, 'v1');
      await passes(1);
      const link = document.body.appendChild(document.createElement('a'));
      link.setAttribute('href', href);
      link.addEventListener('click', (event) => event.preventDefault());
      link.click();
      preloadError();
      await passes(1);
      expect(left()).toEqual(['reload']);
    },
  );

  test('does not lead a page to another site', async () => {
    const { release, left } = openRelease({ mode: 'immediate' }, 'v1');
    await passes(1);
    release.recover('https://evil.example/');
    await passes(1);
    expect(left()).toEqual(['reload']);
  });
});

describe('what never settles', () => {
  const never = () => new Promise<never>(() => {});

  test('is a guard that says no, and the next reload does not wait for it', async () => {
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    release.guard(vi.fn<Guard>(() => true).mockImplementationOnce(never));
    const reloads = [release.reload(), release.reload()];
    await passes(9);
    expect(left()).toEqual([]);
    await passes(2);
    expect([await Promise.all(reloads), left()]).toEqual([['guard', null], ['reload']]);
  });

  test('is an isServed that says no', async () => {
    const isServed = vi.fn(async () => true).mockImplementationOnce(never);
    const { release, left } = openRelease({ isServed }, 'v2');
    await passes(1);
    const reloads = [release.reload(), release.reload()];
    await passes(11);
    expect([await Promise.all(reloads), left()]).toEqual([['unserved', null], ['reload']]);
  });

  test.each(['/cart', '/health'])('is a request for %s that says no, and is given up', async (path) => {
    const { release, site, fetch, left } = openRelease({}, 'v2');
    site.document = '';
    site.health = { version: 'v2' };
    const answer = fetch.getMockImplementation()!;
    let signal: AbortSignal | undefined;
    fetch.mockImplementation((url: string, init?: RequestInit) => {
      if (signal || !url.includes(path)) return answer(url);
      signal = init!.signal!;
      return never();
    });
    await passes(1);
    const reloads = [release.reload(), release.reload()];
    await passes(9);
    expect(signal!.aborted).toBe(false);
    await passes(2);
    expect(signal!.aborted).toBe(true);
    expect([await Promise.all(reloads), left()]).toEqual([['unserved', null], ['reload']]);
  });
});

describe('a release that is closed', () => {
  test('does nothing more', async () => {
    const { release, stream, left, fetch } = openRelease({ mode: 'immediate' }, 'v1');
    await passes(1);
    release.close();
    stream.says('v2');
    release.recover('/elsewhere');
    await passes(600);
    expect([left(), fetch.mock.calls.length, stream.listeners.size, release.outdated]).toEqual([[], 0, 0, false]);
  });

  test('offers nothing, and says that it is closed', async () => {
    const { release, left } = openRelease({}, 'v2');
    await passes(1);
    const seen: ReleaseState[] = [];
    release.subscribe((state) => seen.push(state));
    release.close();
    expect(seen.map(({ offered }) => offered)).toEqual([true, false]);
    expect([await release.reload(), left()]).toEqual(['closed', []]);
  });

  test('is no default of the adapters, and leaves a newer one alone', () => {
    const [one, two] = [openRelease().release, openRelease().release];
    one.close();
    expect(latestRelease()).toBe(two);
    two.close();
    expect(latestRelease()).toBeUndefined();
  });

  test('during a check does not reload, whatever the check finds', async () => {
    let answer = (_: boolean) => {};
    const isServed = () => new Promise<boolean>((resolve) => (answer = resolve));
    const { release, left } = openRelease({ isServed }, 'v2');
    await passes(1);
    const reloads = [release.reload(), release.reload()];
    await passes(1);
    release.close();
    // At once, not after the limit.
    expect(await Promise.all(reloads)).toEqual(['closed', 'closed']);
    answer(true);
    await passes(60);
    expect(left()).toEqual([]);
  });

  test('gives up the request of a check', async () => {
    const { release, fetch } = openRelease({}, 'v2');
    await passes(1);
    fetch.mockImplementation(() => new Promise(() => {}));
    void release.reload();
    await passes(0);
    release.close();
    const [, init] = fetch.mock.calls.at(-1)! as unknown as [string, RequestInit];
    expect(init.signal!.aborted).toBe(true);
  });

  test.each<[string, ReleaseOptions['mode']]>([
    ['a guard', 'prompt'],
    ['a guard, at a navigation', 'next-navigation'],
  ])('by %s that says yes does not reload', async (_, mode) => {
    const { release, navigate, pushed, left } = openRelease({ mode }, 'v2');
    await passes(1);
    release.guard(() => {
      release.close();
      return true;
    });
    if (mode === 'prompt') expect(await release.reload()).toBe('closed');
    else navigate('/products');
    expect([pushed.mock.calls.length, left()]).toEqual([mode === 'prompt' ? 0 : 1, []]);
  });
});

test('a guard that rejects at a navigation is no unhandled rejection', async () => {
  const { release, navigate, pushed } = openRelease({ mode: 'next-navigation' }, 'v2');
  await passes(1);
  const unhandled = vi.fn();
  process.on('unhandledRejection', unhandled);
  release.guard(() => Promise.reject(new Error('of the application')));
  navigate('/products');
  vi.useRealTimers();
  // Node reports a rejection when its microtasks are done.
  await new Promise((resolve) => setImmediate(resolve));
  process.removeListener('unhandledRejection', unhandled);
  expect([pushed.mock.calls.length, unhandled.mock.calls]).toEqual([1, []]);
});
