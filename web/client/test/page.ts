import { vi } from 'vitest';
import { createHeadcount, type Headcount, type HeadcountOptions } from '../src/index.js';
import { messages } from './fixtures.js';

/**
 * A stream the page opened, of either kind, with the server's side in the hands of the test. Await what it does: an event
 * stream is read by fetch, and arrives later.
 */
class FakeStream {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event?: object) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onend: (() => void) | null = null;
  /** Answers in place of a stream: to the request that should read one, or to a WebSocket's handshake. */
  answers: (status: number, headers?: Record<string, string>, body?: string) => Promise<void> = async (...answer) => {
    await this.question?.answers(...answer);
    if (this.question) return;
    await this.#fails();
    await this.probes.at(-1)!.answers(...answer);
  };
  /** The request by which a page asks whether the server is there, before it opens a WebSocket. */
  question: FakeStream | undefined;
  /** Raw text of a stream that is read by fetch and has begun. */
  writes?: (text: string) => Promise<void>;
  closed = false;
  /** The close code that the page gave first. */
  code: number | undefined;
  opened = false;
  sent: unknown[] = [];
  /** Requests by which a page asks why its WebSocket could not be opened. */
  probes: FakeStream[] = [];

  constructor(
    readonly kind: 'sse' | 'ws',
    public url: URL,
    readonly withCredentials = false,
    /** Of a stream that is read by fetch. */
    readonly init?: RequestInit,
  ) {}

  send(text: string) {
    this.sent.push(JSON.parse(text));
  }

  close(code?: number) {
    this.closed = true;
    this.code ??= code;
  }

  /** The stream opens, and nothing more comes. */
  async opens() {
    if (this.kind === 'sse') return this.raw(undefined);
    if (this.question) await this.#isThere();
    this.#opens();
  }

  /** What the browser delivers, also after the page has closed the stream: events may be queued by then. */
  async raw(data: unknown) {
    if (this.question) await this.#isThere();
    if (this.kind === 'ws' && !this.opened) this.#opens();
    this.onmessage?.({ data });
    await settled();
  }

  async #isThere() {
    await this.question?.answers(426);
  }

  async says(message: object) {
    await this.raw(JSON.stringify(message));
  }

  async connects(fields: object = {}) {
    await this.says({ ...messages.server.connected, updateStrategy: 'auto', ...fields });
  }

  /** As when the network or the server fails; the code is for WebSockets. */
  async breaks(code = 1006, reason = ''): Promise<void> {
    if (this.question && code === 1006) return this.question.breaks();
    if (this.question) await this.#isThere();
    if (this.kind === 'sse') this.onerror?.();
    else if (!this.opened && code === 1006) {
      // Nothing that the page asks reaches the server either.
      await this.#fails();
      await this.probes.at(-1)?.breaks();
    } else {
      // Only a WebSocket that has opened is closed with a code.
      if (!this.opened) this.#opens();
      this.onclose?.({ code, reason });
    }
    await settled();
  }

  #opens() {
    this.opened = true;
    this.onopen?.();
  }

  /** As browsers report that a WebSocket could not be opened. */
  async #fails() {
    this.onerror?.({});
    this.onclose?.({ code: 1006, reason: '' });
    await settled();
  }
}

interface Posted {
  path: string;
  body: any;
  init: RequestInit;
  /** Like Headcount, unless the headers say another content type. */
  answer(status: number, headers?: Record<string, string>, body?: string): Promise<void>;
  fail(): Promise<void>;
}

export interface Page {
  headcount: Headcount;
  window: any;
  /** The type of what answers a request whose answer the page may not see; undefined: nothing answers. */
  answersUnseen: 'opaque' | 'basic' | undefined;
  streams: FakeStream[];
  /** The newest stream. */
  readonly stream: FakeStream;
  posts: Posted[];
  /** What the page sent so that it outlives the page: path and text. */
  beacons: [path: string, text: string][];
  navigate(url: string): void;
  setHidden(hidden: boolean): void;
  setOnline(online: boolean): void;
}

/** Lets promises settle without letting time pass. */
export async function settled() {
  for (let turn = 0; turn < 40; turn++) await Promise.resolve();
}

/**
 * A page with a browser's outer faces only, so that the core is tested without any DOM. `prepare` changes its window before
 * the client is created.
 */
export function openPage(
  options: HeadcountOptions = {},
  address = 'https://shop.example/landing?utm=1#top',
  prepare: (window: any) => void = () => {},
): Page {
  const streams: FakeStream[] = [];
  const posts: Posted[] = [];
  const beacons: Page['beacons'] = [];
  const location = new URL(address);
  const openSocket = function (url: string) {
    const asked = streams.at(-1);
    if (asked?.question) {
      asked.question = undefined;
      asked.url = new URL(url);
      return asked;
    }
    const stream = new FakeStream('ws', new URL(url));
    streams.push(stream);
    return stream;
  } as any;

  const history = {
    pushState: (_state: unknown, _title: string, url: string) => void (location.href = new URL(url, location).href),
    replaceState: (_state: unknown, _title: string, url: string) => void (location.href = new URL(url, location).href),
  };
  const window: any = Object.assign(new EventTarget(), {
    location,
    origin: location.origin,
    history,
    document: Object.assign(new EventTarget(), { hidden: false }),
    navigator: {
      onLine: true,
      sendBeacon: (url: string, text: string) => !!beacons.push([new URL(url).pathname, text]),
    },
    localStorage: {},
  });

  /** What a page sees of an event stream that it reads by fetch. */
  const read = (url: string, init: RequestInit) => {
    if (init.mode === 'no-cors') {
      return page.answersUnseen
        ? Promise.resolve({ type: page.answersUnseen })
        : Promise.reject(new TypeError('network'));
    }
    const stream = new FakeStream('sse', new URL(url), init.credentials === 'include', init);
    const socket = streams.filter(({ kind }) => kind === 'ws').at(-1);
    if (!stream.url.pathname.endsWith('/ws')) streams.push(stream);
    else if (socket && !socket.opened && !socket.closed && !socket.question) socket.probes.push(stream);
    else {
      const asked = new FakeStream('ws', stream.url);
      asked.question = stream;
      streams.push(asked);
    }
    return new Promise<Response>((resolve, reject) => {
      stream.answers = (status, headers = {}, body = '{}') => (
        resolve(new Response(body, { status, headers })), settled()
      );
      stream.onerror = () => reject(new TypeError('network'));
      stream.onmessage = ({ data }) => {
        const body = new ReadableStream({
          start(controller) {
            stream.writes = (text) => (controller.enqueue(new TextEncoder().encode(text)), settled());
            stream.onmessage = ({ data }) => void stream.writes!(data === undefined ? '' : `data: ${data}\n\n`);
            stream.onerror = () => controller.error(new TypeError('network'));
            stream.onend = () => controller.close();
            init.signal?.addEventListener('abort', () => {
              controller.error(init.signal!.reason);
              stream.onmessage = stream.onerror = null;
            });
            stream.onmessage({ data });
          },
        });
        resolve(new Response(body, { headers: { 'content-type': 'text/event-stream' } }));
      };
      init.signal?.addEventListener('abort', () => {
        stream.closed = true;
        reject(init.signal!.reason);
      });
    });
  };

  const fetch = vi.fn((url: string, init: RequestInit) => {
    if (init.method !== 'POST') return read(url, init);
    return new Promise<Response>((resolve, reject) => {
      init.signal?.addEventListener('abort', () => reject(new DOMException('aborted', 'AbortError')));
      posts.push({
        path: new URL(url).pathname,
        body: JSON.parse(init.body as string),
        init,
        answer: (status, headers, body = status === 200 ? '{"ok":true}' : '{"detail":"Because."}') => {
          const own = status === 200 ? 'application/json' : 'application/problem+json';
          resolve(new Response(body, { status, headers: { 'content-type': own, ...headers } }));
          return settled();
        },
        fail: () => (reject(new TypeError('network')), settled()),
      });
    });
  }) as any;

  prepare(window);
  const headcount = createHeadcount({
    version: 'v1',
    updateStrategy: 'sse',
    window,
    WebSocket: openSocket,
    fetch,
    ...options,
  });
  const page: Page = {
    headcount,
    window,
    answersUnseen: undefined,
    streams,
    get stream() {
      return streams.at(-1)!;
    },
    posts,
    beacons,
    navigate: (url) => window.history.pushState(null, '', url),
    setHidden(hidden) {
      window.document.hidden = hidden;
      window.document.dispatchEvent(new Event('visibilitychange'));
    },
    setOnline(online) {
      window.navigator.onLine = online;
      window.dispatchEvent(new Event(online ? 'online' : 'offline'));
    },
  };
  return page;
}
