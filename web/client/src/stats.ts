/**
 * The figures of a viewer, and how `stats` and `stats-delta` change them.
 *
 * Pure functions: no argument is changed. Clients choose versions and routes, so the maps have no prototype: `__proto__` and
 * `constructor` are counted like any other label. Tests: test/stats.test.ts, test/deltas.property.test.ts.
 */
import type { ServerMessage } from './messages.js';

export interface ConnectionInfo {
  id: string;
  version: string;
  route: string;
  /** Only with IP tracking, and for viewers whose grant includes it. */
  ip?: string;
  /** True for a tab in the background. Only tabs that share a stream report it. */
  hidden?: boolean;
}

export interface ConnectionStats {
  total: number;
  versions: Record<string, number>;
  routes: Record<string, number>;
  connections: ConnectionInfo[];
  yourId?: string | undefined;
}

export interface Nodes {
  reporting: number;
  expected: number;
  /** How many nodes serve which version, as far as they say. */
  versions?: Record<string, number>;
}

/** Why a version is current, or why none is. */
export interface Release {
  /** `declared` and `settled`: it is current. `orphaned`: it was declared, but no node serves it. `unsettled`: there is none. */
  state: 'declared' | 'settled' | 'unsettled' | 'orphaned';
  version?: string;
  /** Of two releases, the one with the larger number is the newer. */
  number?: number;
}

export interface Figures extends ConnectionStats {
  yourId: string | undefined;
  /** Grows with every change; comparable only within one stream. */
  revision: number;
  /** True when there are more connections than `connections` lists; `total` and the maps are complete in any case. */
  connectionsTruncated: boolean;
  nodes: Nodes | undefined;
  /** True while the figures of a node are missing. */
  partial: boolean;
  /** The version that was declared current, else the one that the fleet has settled on; undefined while it is not known. */
  currentVersion?: string | undefined;
  /** Undefined while the server does not say. */
  release?: Release | undefined;
}

export function noFigures(): Figures {
  return {
    total: 0,
    versions: Object.create(null),
    routes: Object.create(null),
    connections: [],
    yourId: undefined,
    revision: 0,
    connectionsTruncated: false,
    nodes: undefined,
    partial: false,
  };
}

/** Returns undefined for a message without a valid `total` and `revision`. */
export function readStats(message: ServerMessage): Figures | undefined {
  return change(noFigures(), message, message.connections, []);
}

/**
 * Returns undefined when the delta does not continue these figures. The caller must then subscribe again and ignore
 * deltas until the next `stats`.
 */
export function applyDelta(figures: Figures, delta: ServerMessage): Figures | undefined {
  const rows = Object(delta.connections);
  return delta.base === figures.revision ? change(figures, delta, rows.set, rows.remove) : undefined;
}

function change(from: Figures, message: ServerMessage, set: unknown, remove: unknown): Figures | undefined {
  const {
    total,
    revision,
    yourId,
    connectionsTruncated,
    nodes,
    partial,
    release,
    currentVersion = from.currentVersion,
  } = message;
  if (!isCount(total) || !isCount(revision)) return undefined;
  return {
    total,
    versions: changeCounts(from.versions, message.versions),
    routes: changeCounts(from.routes, message.routes),
    connections: changeRows(from.connections, list(set).filter(isRow), list(remove)),
    yourId: typed('string', yourId, from.yourId),
    revision,
    connectionsTruncated: typed('boolean', connectionsTruncated, from.connectionsTruncated),
    nodes: readNodes(nodes) ?? from.nodes,
    partial: typed('boolean', partial, from.partial),
    currentVersion: typed<string | undefined>('string', currentVersion, undefined),
    release: readRelease(release) ?? from.release,
  };
}

/** Returns the same object when nothing changed, so a component that shows versions does not render for a new route. */
function changeCounts(from: Record<string, number>, counts: unknown): Record<string, number> {
  const changes = Object.entries(Object(counts));
  if (!changes.length) return from;
  const result: Record<string, number> = Object.assign(Object.create(null), from);
  for (const [key, count] of changes) {
    if (count === 0) delete result[key];
    else if (isCount(count)) result[key] = count;
  }
  return result;
}

function changeRows(from: ConnectionInfo[], set: ConnectionInfo[], remove: unknown[]): ConnectionInfo[] {
  if (!set.length && !remove.length) return from;
  const rows = new Map<unknown, ConnectionInfo>(from.map((row) => [row.id, row]));
  for (const id of remove) rows.delete(id);
  for (const row of set) rows.set(row.id, row);
  return [...rows.values()];
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** The value if it has this type, else the old one. */
function typed<T>(type: string, value: unknown, old: T): T {
  return typeof value === type ? (value as T) : old;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

// biome-ignore lint/suspicious/noExplicitAny: it is what checks the type.
function readNodes(value: any): Nodes | undefined {
  if (isCount(value?.reporting) && isCount(value.expected)) return value;
}

// biome-ignore lint/suspicious/noExplicitAny: it is what checks the type.
export function readRelease(value: any): Release | undefined {
  if (areTexts(value?.state, value?.version ?? '') && isCount(value.number ?? 0)) return value;
}

// biome-ignore lint/suspicious/noExplicitAny: it is what checks the type.
function isRow(value: any): value is ConnectionInfo {
  return areTexts(value?.id, value?.version, value?.route, value?.ip ?? '');
}

function areTexts(...fields: unknown[]): boolean {
  return fields.every((field) => typeof field === 'string');
}
