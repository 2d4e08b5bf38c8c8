/**
 * The messages of the wire and what the wire allows in them. Source: protocol/README.md
 */

export type UpdateStrategy = 'auto' | 'sse' | 'ws';

/** What the server or the application behind it sent. Nothing but `type` has been looked at. */
export interface ServerMessage {
  readonly type: string;
  readonly [field: string]: unknown;
}

export type ClientMessage =
  | { type: 'subscribe-stats'; deltas: boolean }
  | { type: 'unsubscribe-stats' }
  | { type: 'route-update'; route: string }
  | { type: 'tabs'; set: Tab[]; remove: string[] };

/** A tab as the stream that it shares with others reports it. */
export interface Tab {
  key: string;
  version?: string | undefined;
  route?: string | undefined;
  hidden: boolean;
}

export const VERSION_LENGTH = 128;
export const ROUTE_LENGTH = 512;

/**
 * Returns undefined for whatever is not a message: a binary frame, broken JSON, a value without a `type`.
 */
export function decode(data: unknown): ServerMessage | undefined {
  try {
    const message = JSON.parse(String(data));
    return typeof message?.type === 'string' ? message : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Makes a version or route acceptable: the server refuses the whole stream for a control character, a line separator,
 * an unpaired surrogate or one character too many, and a page that is refused is not counted at all.
 */
export function label(text: string, length: number): string {
  return text.slice(0, length).replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/gu, '');
}
