/**
 * The messages of the wire and their limits. Source: protocol/README.md. Tests: test/messages.test.ts, test/labels.test.ts.
 */

export type UpdateStrategy = 'auto' | 'sse' | 'ws';

/** A message of the server or of the application. Only `type` has been checked. */
export interface ServerMessage {
  readonly type: string;
  readonly [field: string]: unknown;
}

export type ClientMessage =
  | { type: 'subscribe-stats'; deltas: boolean }
  | { type: 'unsubscribe-stats' }
  | { type: 'route-update'; route: string }
  | { type: 'tabs'; set: Tab[]; remove: string[] }
  | { type: 'acknowledge'; id: unknown; tab?: string }
  | ReleaseReply;

/** What a page does about a release whose message asked for it. */
export interface ReleaseReply {
  type: 'release-reply';
  version: string;
  /** It reloads now; something keeps it, which `reason` names; or its user said no. */
  reply: 'accepted' | 'deferred' | 'refused';
  reason?: string | undefined;
  /** Key of the tab, on a shared stream. */
  tab?: string;
}

/** A tab, as a shared stream reports it. */
export interface Tab {
  key: string;
  version?: string | undefined;
  route?: string | undefined;
  hidden: boolean;
}

const VERSION_LENGTH = 128;
const ROUTE_LENGTH = 512;

/**
 * Returns undefined for everything that is not a message: a binary frame, broken JSON, a value without a `type`.
 */
export function decode(data: unknown): ServerMessage | undefined {
  try {
    // What is no text becomes one that is no JSON.
    const message = JSON.parse(data as string);
    if (typeof message?.type === 'string') return message;
  } catch {}
}

/**
 * Makes a route valid. The server refuses the stream for a control character, a line separator, an unpaired surrogate, a
 * character that turns the direction of text or one character too many, and then the page is not counted.
 */
export function routeLabel(text: string): string {
  return text.slice(0, ROUTE_LENGTH).replace(/[\p{Cc}\p{Cs}\u2028-\u202e\u2066-\u2069]/gu, '');
}

/** Makes a version valid: characters that can be seen, written in one way (NFKC), and no spaces round them. */
export function versionLabel(text: string): string {
  return text
    .normalize('NFKC')
    .slice(0, VERSION_LENGTH)
    .replace(/(?! )[\p{C}\p{DI}\p{Z}]/gu, '')
    .trim();
}
