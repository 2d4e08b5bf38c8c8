import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Figures, ServerMessage } from '../src/index.js';

function read(name: string) {
  // Not imported: as a module, `__proto__` in them would be a prototype and not a key.
  return JSON.parse(readFileSync(join(import.meta.dirname, '../../../protocol/fixtures', `${name}.json`), 'utf8'));
}

/** The golden messages that the server's tests read too. */
export const messages: {
  server: Record<
    | 'connected'
    | 'stats'
    | 'stats-delta'
    | 'stats-unauthorized'
    | 'version'
    | 'keepalive'
    | 'pong'
    | 'drain'
    | 'tabs'
    | 'to',
    ServerMessage
  >;
  client: Record<'subscribe-stats' | 'unsubscribe-stats' | 'route-update' | 'tabs' | 'ping', Record<string, unknown>>;
  malformed: string[];
} = read('messages');

export const deltas: {
  name: string;
  before: Omit<Figures, 'yourId'>;
  delta: ServerMessage;
  after: Omit<Figures, 'yourId'>;
}[] = read('deltas');

/** What a server with random events told a viewer, written by tests/core/test_histories.py. */
export const histories: {
  name: string;
  before: ServerMessage;
  steps: { delta: ServerMessage; after: ServerMessage }[];
}[] = read('histories');

type Range = [least: number, most: number];

/** The rule of reconnecting, which tests/core/test_reconnect.py reads too. */
export const reconnect: {
  constants: { baseMs: number; capMs: number; otherWayMs: number; renewals: number; misses: number; wayMs: number };
  ends: {
    name: string;
    attempt: number;
    openMs: number | null;
    code: number | null;
    namedMs: number;
    refused: boolean;
    delayMs: Range | null;
    attemptAfter: number | null;
  }[];
  /** Close codes, and whether the stream may have been ended from outside. */
  cuts: { code: number; cut: boolean }[];
  drains: { name: string; reconnectMs: number | null; delayMs: Range }[];
  wakes: { name: string; notBeforeMs: number; delayMs: Range; onlineMs: Range }[];
  /** What no wake cuts short, when 1 is drawn. */
  holds: { name: string; code: number | null; reconnectMs: number | null; leastMs: number }[];
  wakeEvents: ('online' | 'focus' | 'pageshow' | 'visibilitychange')[];
  limits: { name: string; lives: { endedAtMs: number; openMs: number; cutAfterMs: number }[] }[];
  renewals: { name: string; cutAfterMs: number; renewMs: Range }[];
  ways: {
    name: string;
    prefers: 'ws' | 'sse';
    /** `server`: it is up. `atOnce`: the next kind is tried after `otherWayMs`. */
    steps: { way: 'ws' | 'sse'; server: boolean; opens?: true; delivers: boolean; atOnce?: true }[];
  }[];
  answers: {
    name: string;
    status: number;
    contentType: string;
    refused: boolean | null;
    says: string[];
  }[];
  /** What an answer to a POST means: `unknown`: no stream has this handle; `later` is sent again soon, `refused` rarely. */
  posts: {
    name: string;
    status: number;
    contentType: string | null;
    body: string;
    outcome: 'done' | 'unknown' | 'denied' | 'refused' | 'later';
    says: string[];
  }[];
  /** What a browser lets a page know of a request that failed. `url`: of the server, if it is not the page's origin. */
  unanswered: {
    name: string;
    url: string | null;
    answersUnseen: 'opaque' | 'basic' | null;
    refused: boolean;
    says: string[];
  }[];
  retryAfter: { nowMs: number; headers: { name: string; header: string | null; namedMs: number }[] };
} = read('reconnect');
