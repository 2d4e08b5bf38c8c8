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
  | { type: 'tabs'; set: Tab[]; remove: string[] };

/** A tab, as a shared stream reports it. */
export interface Tab {
  key: string;
  version?: string | undefined;
  route?: string | undefined;
  hidden: boolean;
}

export const VERSION_LENGTH = 128;
export const ROUTE_LENGTH = 512;

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
 * Makes a version or route valid. The server refuses the stream for a control character, a line separator, an unpaired
 * surrogate or one character too many, and then the page is not counted.
 */
export function label(text: string, length: number): string {
  return text.slice(0, length).replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/gu, '');
}
