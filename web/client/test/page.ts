import { vi } from 'vitest';
import { createHeadcount, type Headcount, type HeadcountOptions } from '../src/index.js';
import { messages } from './fixtures.js';

/** A stream the page opened, of either kind, with the server's side in the hands of the test. */
class FakeStream {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: (() => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onend: (() => void) | null = null;
  /** Only before anything has come, of a stream that is read by fetch: it is none after all. */
  answers?: (status: number, headers?: Record<string, string>) => Promise<void>;
  /** Raw text of a stream that is read by fetch and has begun. */
  writes?: (text: string) => Promise<void>;
  closed = false;
  sent: unknown[] = [];

  constructor(
    readonly kind: 'sse' | 'ws',
    readonly url: URL,
    readonly withCredentials = false,
    /** Of a stream that is read by fetch. */
    readonly init?: RequestInit,
  ) {}

  send(text: string) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  /** What the browser delivers, also after the page has closed the stream: events may be queued by then. */
  raw(data: unknown) {
    this.onmessage?.({ data });
  }

  says(message: object) {
    this.raw(JSON.stringify(message));
  }

  connects(fields: object = {}) {
    this.says({ ...messages.server.connected, updateStrategy: 'auto', ...fields });
  }

  /** As when the network or the server fails; the code is for WebSockets. */
  breaks(code = 1006, reason = '') {
    if (this.kind === 'sse') this.onerror?.();
    else this.onclose?.({ code, reason });
  }
}

interface Posted {
  path: string;
  body: any;
  init: RequestInit;
  answer(status: number, headers?: Record<string, string>): Promise<void>;
  fail(): Promise<void>;
}

export interface Page {
  headcount: Headcount;
  window: any;
  streams: FakeStream[];
  /** The newest stream. */
  readonly stream: FakeStream;
  posts: Posted[];
  navigate(url: string): void;
  setHidden(hidden: boolean): void;
  setOnline(online: boolean): void;
}

/** Lets promises settle without letting time pass. */
export async function settled() {
  for (let turn = 0; turn < 40; turn++) await Promise.resolve();
}

/** A page with a browser's outer faces only, so that the core is tested without any DOM. */
export function openPage(options: HeadcountOptions = {}, address = 'https://shop.example/landing?utm=1#top'): Page {
  const streams: FakeStream[] = [];
  const posts: Posted[] = [];
  const location = new URL(address);
  const open = (kind: 'sse' | 'ws') =>
    function (url: string, init?: EventSourceInit) {
      const stream = new FakeStream(kind, new URL(url), init?.withCredentials);
      streams.push(stream);
      return stream;
    } as any;

  const history = {
    pushState: (_state: unknown, _title: string, url: string) => void (location.href = new URL(url, location).href),
    replaceState: (_state: unknown, _title: string, url: string) => void (location.href = new URL(url, location).href),
  };
  const window: any = Object.assign(new EventTarget(), {
    location,
    history,
    document: Object.assign(new EventTarget(), { hidden: false }),
    navigator: { onLine: true },
  });

  /** What a page sees of an event stream that it reads by fetch. */
  const read = (url: string, init: RequestInit) => {
    const stream = new FakeStream('sse', new URL(url), init.credentials === 'include', init);
    streams.push(stream);
    return new Promise<Response>((resolve, reject) => {
      stream.answers = (status, headers = {}) => (resolve(new Response('{}', { status, headers })), settled());
      stream.onerror = () => reject(new TypeError('network'));
      stream.onmessage = ({ data }) => {
        const body = new ReadableStream({
          start(controller) {
            stream.writes = (text) => (controller.enqueue(new TextEncoder().encode(text)), settled());
            stream.onmessage = ({ data }) => void stream.writes!(`data: ${data}\n\n`);
            stream.onerror = () => controller.error(new TypeError('network'));
            stream.onend = () => controller.close();
            init.signal?.addEventListener('abort', () => controller.error(init.signal!.reason));
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
        answer: (status, headers = {}) => (resolve(new Response('{}', { status, headers })), settled()),
        fail: () => (reject(new TypeError('network')), settled()),
      });
    });
  }) as any;

  const headcount = createHeadcount({
    version: 'v1',
    updateStrategy: 'sse',
    window,
    EventSource: open('sse'),
    WebSocket: open('ws'),
    fetch,
    ...options,
  });
  return {
    headcount,
    window,
    streams,
    get stream() {
      return streams.at(-1)!;
    },
    posts,
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
}
