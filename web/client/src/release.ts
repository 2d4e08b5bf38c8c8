/**
 * Brings a page to the current version, and loses nothing of it: `createRelease({ version, headcount })`.
 *
 * release-rules.ts decides, release-guards.ts says what a reload would lose. This module has the clock, the storage and
 * the requests. It learns the current version from the stream of a `Headcount`, and asks `/health` while there is
 * none. It needs no right to watch.
 *
 * Each second it reads modes, guards, delays and the dismissals of other tabs again. One timer is
 * cheaper in bytes than a listener for each, and a device that slept needs nothing of its own.
 *
 * The record of reloads is the tab's (`sessionStorage`), a dismissal is the browser's (`localStorage`).
 */
import type { Headcount, ReleaseReply, ServerMessage } from './index.js';
import { notify } from './listeners.js';
import { createGuards } from './release-guards.js';
import {
  afterCheck,
  afterReload,
  isNewer,
  isOutdated,
  judgeDocument,
  judgeRecord,
  type Mode,
  mayReload,
  planFor,
  type Reason,
  readRecord,
  targetOf,
} from './release-rules.js';

export type { Mode, Reason } from './release-rules.js';

/** `true` lets the page reload. A promise of it is awaited for 10 s; one that rejects says no, like a function that throws. */
export type Guard = () => boolean | Promise<boolean>;

/** Never changed: every update is another object. */
export interface ReleaseState {
  /** Version of this page. */
  readonly mine: string;
  /** The current version; undefined while it is not known. */
  readonly current: string | undefined;
  /** null while it is not known. */
  readonly outdated: boolean | null;
  /** Whether the current version is known. */
  readonly settled: boolean;
  /** A part of this page could not be loaded. */
  readonly missing: boolean;
  /** The page is to be replaced, and nobody has dismissed that: a prompt is shown while this is true. */
  readonly offered: boolean;
  readonly mode: Mode;
  /** Why the page has not reloaded; null: nothing is in the way. */
  readonly reason: Reason | null;
  /** Reloads if nothing is in the way. Resolves to what is, or to null when the page is about to be left. */
  reload(): Promise<Reason | null>;
  /** Leaves the page as it is for this version, in all tabs. */
  dismiss(): void;
  /** Adds a function that must return true before a reload, or a promise that must settle. Returns how to remove it. */
  guard(guard: Guard | Promise<unknown>): () => void;
}

/** `preventDefault()`: the module does nothing by itself about this version in this tab, and offers nothing. */
export interface OutdatedEvent extends Event {
  readonly mine: string;
  readonly current: string | undefined;
}

export interface Release extends ReleaseState {
  /** Calls the listener at once and after each change, like a Svelte store. */
  subscribe(listener: (state: ReleaseState) => void): () => void;
  /** The same object until something changes. */
  getSnapshot(): ReleaseState;
  /** The initial state, for server-side rendering and for hydration. */
  getServerSnapshot(): ReleaseState;
  /** Calls the listener once a version that the page should be replaced by. */
  onOutdated(listener: (event: OutdatedEvent) => void): () => void;
  /** Says that a part of the page could not be loaded, and where its user wanted to go: `router.onError`. */
  recover(url?: string): void;
  /** Ends everything for good. */
  close(): void;
}

export interface ReleaseOptions {
  /** Build id of the code that this page runs, the same as for `createHeadcount`. */
  version: string;
  /** Its stream tells which version is current. Without one, `/health` is asked each minute. */
  headcount?: Headcount | undefined;
  /** Default `prompt`: only `reload()` reloads. */
  mode?: Mode | undefined;
  /** Default `/__skew`. */
  basePath?: string | undefined;
  /** Origin of the Headcount server. Default: the page's. */
  url?: string | undefined;
  /** Pages that act by themselves wait up to this time, so that they do not all come at once. Default 5,000 ms. */
  spreadMs?: number | undefined;
  /** Whether a reload would bring the version. Default: what the page's own address delivers. After 10 s it is a no. */
  isServed?: ((current: string | undefined) => boolean | Promise<boolean>) | undefined;
  onOutdated?: ((event: OutdatedEvent) => void) | undefined;
  // Default: the page's own. Tests replace them.
  window?: (Window & typeof globalThis) | undefined;
}

let latest: Release | undefined;

/** The release created last, until it is closed: the default of the adapters. */
export function latestRelease(): Release | undefined {
  return latest;
}

export function createRelease(options: ReleaseOptions): Release {
  const TICK_MS = 1000;
  const POLL_MS = 30_000;
  /** While a guard says no. */
  const GUARD_MS = 5000;
  /** A link that was clicked so long ago is where the user of a missing part wanted to go. */
  const CLICK_MS = 10_000;
  /** A guard or a check that takes longer says no. */
  const LIMIT_MS = 10_000;
  const KEY = 'headcount-release';
  /** What Chromium and Firefox, WebKit, and webpack say of a part that is gone. */
  const CHUNK = /imported module|module script|ing (CSS )?chunk/;

  const win = options.window ?? (globalThis.window as typeof window | undefined);
  const { headcount, mode = 'prompt', spreadMs = 5000 } = options;
  const mine = (options.version ?? '').normalize('NFKC').trim();
  const ended = new AbortController();
  const listening = { capture: true, signal: ended.signal };
  const listeners = new Set<(state: ReleaseState) => void>();
  const outdatedListeners = new Set<(event: OutdatedEvent) => void>();
  const guards = new Set<Guard>();
  let current: string | undefined;
  let missing = false;
  /** Number of the release that `current` is of. */
  let currentRelease: number | undefined;
  let plan = planFor(undefined, currentRelease, 0);
  let announced: string | undefined;
  let prevented: string | undefined;
  let dismissed: string | undefined;
  /** The version about which the server wants to hear what this page does. */
  let askedAbout: unknown;
  /** What it has heard last. */
  let replied: string | undefined;
  let touchedAt = Date.now();
  let pollAt = touchedAt + (headcount ? POLL_MS : 0);
  /** Where the user wanted to go, and since when. */
  let destination: string | undefined;
  let destinationAt = 0;
  let running: Promise<Reason | null> | undefined;
  /** Ends the step that `running` waits for, with a no. */
  let cancel: (() => void) | undefined;

  const initial: ReleaseState = Object.freeze({
    mine,
    current,
    outdated: null,
    settled: false,
    missing,
    offered: false,
    mode,
    reason: null,
    reload: () => attempt(true),
    dismiss() {
      dismissed = plan.target;
      access('localStorage', dismissed);
      tick();
    },
    guard(guard: Guard | Promise<unknown>) {
      const isFree = typeof guard === 'function' ? () => guard() : () => false;
      const remove = () => void guards.delete(isFree);
      guards.add(isFree);
      if (typeof guard !== 'function') guard.then(remove, remove);
      return remove;
    },
  });
  let state = initial;

  function set(changes: Partial<ReleaseState>): void {
    const keys = Object.keys(changes) as (keyof ReleaseState)[];
    if (keys.every((key) => state[key] === changes[key])) return;
    state = { ...state, ...changes };
    Object.assign(release, changes);
    notify(listeners, state);
  }

  /** Reads what is stored, or stores it; undefined where the browser forbids either. */
  function access(area: 'localStorage' | 'sessionStorage', value?: string): string | undefined {
    try {
      const storage = win![area];
      if (value) storage.setItem(KEY, value);
      return storage.getItem(KEY) ?? '';
    } catch {}
  }

  async function health(
    signal: AbortSignal,
  ): Promise<{ version?: unknown; currentVersion?: unknown; release?: { number?: unknown } }> {
    const base = new URL(options.basePath ?? '/__skew', options.url ?? win!.location.origin).href.replace(/\/*$/, '');
    return (
      await win!.fetch(`${base}/health?version=` + encodeURIComponent(mine), { cache: 'no-store', signal })
    ).json();
  }

  function hear({ type, reply, version }: ServerMessage): void {
    if (type === 'version') {
      askedAbout = reply && version;
      replied = undefined;
    }
    tick();
  }

  function say(reply: ReleaseReply['reply'], reason: Reason | '' = ''): void {
    const { target } = plan;
    if (!target || target !== askedAbout || replied === reply + reason) return;
    replied = reply + reason;
    headcount!.reply({ type: 'release-reply', version: target, reply, reason });
  }

  function tick(): void {
    if (!win || ended.signal.aborted) return;
    const now = Date.now();
    const live = headcount?.getSnapshot();
    if (live?.status === 'open') {
      current = live.currentVersion;
      currentRelease = live.release?.number;
      pollAt = now + POLL_MS;
    } else if (now >= pollAt) {
      pollAt = now + POLL_MS * (1 + Math.random());
      health(ended.signal).then(
        ({ currentVersion, release }) => {
          current = typeof currentVersion === 'string' ? currentVersion : undefined;
          currentRelease = typeof release?.number === 'number' ? release.number : undefined;
          tick();
        },
        // The server may be away: what was known stays.
        () => {},
      );
    }
    const target = targetOf(mine, current, missing);
    if (target !== plan.target || isNewer(currentRelease, plan.release))
      plan = planFor(target, currentRelease, now + (missing ? 0 : Math.random() * spreadMs));
    else plan = { ...plan, release: currentRelease ?? plan.release };
    if (target && target !== announced) {
      announced = target;
      const event = Object.assign(new Event('outdated', { cancelable: true }), { mine, current });
      notify(outdatedListeners, event);
      if (event.defaultPrevented) prevented = target;
    }
    const reason = target ? judge() : null;
    set({
      current,
      outdated: isOutdated(mine, current),
      settled: !!current,
      missing,
      offered: isOffered(),
      // What the last attempt met stays until the next one.
      ...(reason || !target ? { reason } : {}),
    });
    if (isDismissed()) say('refused');
    // A reload that is under way is on record, and looks like one that was in vain.
    else if (reason && replied !== 'accepted' && isOffered() && isDue()) say('deferred', reason);
    if (!reason && isOffered() && now >= plan.checkAt && (isDue() || (mode === 'next-navigation' && !plan.armed)))
      attempt();
  }

  function isOffered(): boolean {
    return !ended.signal.aborted && ![undefined, prevented].includes(plan.target) && !isDismissed();
  }

  /** In this tab or in another one. */
  function isDismissed(): boolean {
    return [dismissed, access('localStorage')].includes(plan.target);
  }

  function isDue(): boolean {
    return mayReload({ mode, hidden: win!.document.hidden, idleMs: Date.now() - touchedAt, missing });
  }

  function judge(): Reason | null {
    const text = access('sessionStorage');
    return text === undefined ? 'storage' : (judgeRecord(readRecord(text), plan, Date.now()) ?? null);
  }

  /** Calls a step of an attempt. One that fails, is not over in time, or is cut off by `close()` gives undefined. */
  function limited<T>(step: (signal: AbortSignal) => T | Promise<T>): Promise<T | undefined> {
    const controller = new AbortController();
    return new Promise((resolve) => {
      const end = (cancel = () => {
        resolve(undefined);
        controller.abort();
      });
      setTimeout(end, LIMIT_MS);
      Promise.resolve(controller.signal).then(step).then(resolve, end);
    });
  }

  /** Asks the application's guards, then the built-in ones. What cannot be asked says no. */
  async function askGuards(): Promise<Reason | undefined> {
    try {
      for (const guard of guards) if ((await limited(guard)) !== true) return 'guard';
      return findBuiltInGuard!();
    } catch {
      return 'guard';
    }
  }

  /** Whether a reload would bring the version. */
  async function checkServed(signal: AbortSignal): Promise<boolean> {
    const { document, location } = win!;
    const wanted = isOutdated(mine, current) ? current : undefined;
    if (options.isServed) return (await options.isServed(wanted)) === true;
    const response = await win!.fetch(location.href, {
      cache: 'no-cache',
      headers: { accept: 'text/html' },
      signal,
    });
    if (!response.ok || response.redirected) return false;
    const sources = [...document.scripts].map((script) => script.getAttribute('src'));
    return (
      judgeDocument(await response.text(), mine, wanted, sources) ??
      (!!wanted && (await health(signal)).version === wanted)
    );
  }

  function attempt(asked = false): Promise<Reason | null> {
    // One that only checks for the next navigation does not do what the user asked for.
    if (asked && running) return running.then(() => attempt(true));
    return (running ??= run(asked).then((reason) => {
      running = undefined;
      if (ended.signal.aborted) return 'closed';
      set({ reason });
      return reason;
    }));
  }

  async function run(asked: boolean): Promise<Reason | null> {
    const { target } = plan;
    if (!target || !win || ended.signal.aborted) return 'current';
    const moves = asked || isDue();
    let reason = judge() ?? (moves && (await askGuards()));
    if (!reason) {
      const served = !!(await limited(checkServed));
      if (target !== plan.target) return null;
      plan = afterCheck(plan, served, Date.now(), Math.random());
      reason = served ? moves && (await askGuards()) : 'unserved';
    }
    if (reason) {
      plan = { ...plan, checkAt: Math.max(plan.checkAt, Date.now() + GUARD_MS) };
      if (moves) say('deferred', reason);
      return reason;
    }
    // Meanwhile another tab may have dismissed it, or the user has come back.
    if (target !== plan.target || !(asked || (isOffered() && isDue()))) return null;
    return go(!asked && Date.now() - destinationAt < CLICK_MS ? destination : undefined);
  }

  /** Leaves the page, once that is on record. */
  function go(url = ''): Reason | null {
    if (ended.signal.aborted) return 'closed';
    const { document, location } = win!;
    const text = JSON.stringify(afterReload(readRecord(access('sessionStorage') ?? ''), mine, plan, Date.now()));
    if (access('sessionStorage', text) !== text) {
      say('deferred', 'storage');
      return 'storage';
    }
    say('accepted');
    // An address that differs by its fragment only would load nothing.
    if (isElsewhere(url)) location.assign(new URL(url, document.baseURI));
    else location.reload();
    return null;
  }

  /** Another document of this site. */
  function isElsewhere(url: string | URL): boolean {
    const { document, location } = win!;
    try {
      const { origin, pathname, search } = new URL(url, document.baseURI);
      return !!url && origin === location.origin && pathname + search !== location.pathname + location.search;
    } catch {
      return false;
    }
  }

  /** Takes the place of a router's navigation. It cannot wait, so a guard that answers later says no. */
  function navigate(url: string | URL): boolean {
    const free = () =>
      [...guards].every((guard) => {
        const answer: unknown = guard();
        // A promise says no, and nobody awaits it.
        Promise.resolve(answer).catch(() => {});
        return answer === true;
      });
    if (!isOffered() || !isElsewhere(url)) return false;
    let reason: Reason | null | undefined | false = 'guard';
    try {
      reason = judge() || (plan.armed ? (free() ? findBuiltInGuard!() : 'guard') : plan.failedChecks > 0 && 'unserved');
    } catch {
      // A guard that throws says no.
    }
    if (reason) say('deferred', reason);
    return plan.armed && !reason && !go(`${url}`);
  }

  const release: Release = Object.assign({}, initial, {
    subscribe(listener: (state: ReleaseState) => void) {
      notify([listener], state);
      return add(listeners, listener);
    },
    getSnapshot: () => state,
    getServerSnapshot: () => initial,
    onOutdated: (listener: (event: OutdatedEvent) => void) => add(outdatedListeners, listener),
    recover(url?: string) {
      missing = true;
      if (url) {
        destination = url;
        destinationAt = Date.now();
      }
      tick();
    },
    close() {
      ended.abort();
      cancel?.();
      clearInterval(timer);
      leaveStream?.();
      if (latest === release) latest = undefined;
      set({ offered: false });
    },
  });

  if (options.onOutdated) outdatedListeners.add(options.onOutdated);
  const findBuiltInGuard = win && createGuards(win, listening);
  const leaveStream = win && headcount?.onMessage(hear);
  const timer = win && setInterval(tick, TICK_MS);
  if (win) {
    const listen = (types: string, listener: (event: Event) => void) => {
      for (const type of types.split(' ')) win.addEventListener(type, listener, listening);
    };
    listen('storage visibilitychange', tick);
    listen('vite:preloadError', () => release.recover());
    listen('unhandledrejection', (event) => {
      if (CHUNK.test((event as PromiseRejectionEvent).reason)) release.recover();
    });
    listen('pointerdown pointermove keydown wheel touchstart', () => (touchedAt = Date.now()));
    listen('click', (event) => {
      const link = (event.composedPath()[0] as Element).closest?.('a[href]');
      if (link) {
        destination = link.getAttribute('href')!;
        destinationAt = Date.now();
      }
    });
    if (mode === 'next-navigation') {
      const { history } = win;
      const push = history.pushState;
      history.pushState = function (...entry) {
        if (ended.signal.aborted || entry[2] == null || !navigate(entry[2])) push.apply(this, entry);
      };
    }
    // The application may add listeners and guards first.
    queueMicrotask(tick);
  }
  return (latest = release);
}

function add<T>(set: Set<T>, listener: T): () => void {
  set.add(listener);
  return () => void set.delete(listener);
}
