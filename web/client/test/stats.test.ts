import { expect, test } from 'vitest';
import { applyDelta, type Figures, noFigures, readStats } from '../src/stats.js';
import { deltas, messages } from './fixtures.js';

const stats = messages.server.stats;

/** Own keys only, so that a map with `__proto__` in it compares as what it is. */
function entries(figures: Figures | undefined) {
  if (!figures) return figures;
  return { ...figures, versions: Object.entries(figures.versions), routes: Object.entries(figures.routes) };
}

function figures(from: object): Figures {
  return readStats({ type: 'stats', ...from })!;
}

test('reads the golden stats', () => {
  const { type, ...rest } = stats;
  expect(readStats(stats)).toEqual(rest);
});

test.each(deltas)('applies the golden delta: $name', ({ before, delta, after }) => {
  const from = figures(before);
  const untouched = structuredClone(entries(from));
  expect(entries(applyDelta(from, delta))).toEqual(entries(figures(after)));
  expect(entries(from)).toEqual(untouched);
});

test.each(['base', 'total', 'revision'])('refuses a delta without %s', (field) => {
  const { before, delta } = deltas[1]!;
  expect(applyDelta(figures(before), { ...delta, [field]: undefined })).toBeUndefined();
});

test('refuses a delta that builds on other figures', () => {
  const { before, delta } = deltas[1]!;
  expect(applyDelta(figures({ ...before, revision: 5 }), delta)).toBeUndefined();
});

test('counts a version called __proto__', () => {
  const { versions } = readStats({ ...stats, versions: JSON.parse('{"__proto__":3,"constructor":1}') })!;
  expect(versions['__proto__']).toBe(3);
  expect(Object.keys(versions)).toEqual(['__proto__', 'constructor']);
  expect(versions['toString']).toBeUndefined();
});

test('removes what a delta removes before it sets, and sets in place', () => {
  const rows = (...ids: string[]) => ids.map((id) => ({ id, version: 'v1', route: '/' }));
  const from = figures({ ...stats, connections: rows('a', 'b', 'c') });
  const moved = { id: 'b', version: 'v1', route: '/b' };
  const after = applyDelta(from, {
    type: 'stats-delta',
    base: 7,
    revision: 8,
    total: 3,
    connections: { set: [moved, ...rows('a')], remove: ['a'] },
  });
  expect(after?.connections).toEqual([moved, ...rows('c'), ...rows('a')]);
});

test('keeps the objects of what did not change', () => {
  const from = figures(stats);
  const delta = { type: 'stats-delta', base: 7, revision: 8, total: 2, versions: {}, routes: { '/': 0 } };
  const after = applyDelta(from, delta)!;
  expect(after.versions).toBe(from.versions);
  expect(after.connections).toBe(from.connections);
  expect(after.routes).toEqual({});
});

const junk = [null, 5, 'text', [], [[]], { set: '5', remove: 'x' }, { set: [null, 5, {}, { id: 1 }], remove: [{}] }];

test.each(junk.map((value) => ({ value })))('survives $value where something else belongs', ({ value }) => {
  const current = typeof value === 'string' ? value : undefined;
  const fields = {
    ...{ versions: value, routes: value, connections: value, nodes: value, partial: value, yourId: [] },
    currentVersion: value,
    release: value,
  };
  const from = figures({ ...stats, ...fields });
  expect(from).toEqual({ ...noFigures(), total: 2, revision: 7, currentVersion: current });
  const after = applyDelta(from, { type: 'stats-delta', base: 7, revision: 8, total: 2, ...fields });
  expect(after).toEqual({ ...from, revision: 8 });
});

test('keeps why a version is current until a delta says otherwise', () => {
  const from = figures({ ...stats, currentVersion: 'v2', release: { state: 'declared', version: 'v2' } });
  const delta = { type: 'stats-delta', base: 7, revision: 8, total: 2 };
  expect(applyDelta(from, delta)?.release).toEqual({ state: 'declared', version: 'v2' });
  const orphaned = { state: 'orphaned', version: 'v2' };
  expect(applyDelta(from, { ...delta, currentVersion: null, release: orphaned })).toMatchObject({
    currentVersion: undefined,
    release: orphaned,
  });
  expect(applyDelta(from, { ...delta, release: { state: 'declared', version: 5 } })?.release).toBe(from.release);
});

test.each([-1, 0.5, '2', Infinity, null])('does not take %j for a count', (count) => {
  expect(readStats({ ...stats, total: count })).toBeUndefined();
  expect(readStats({ ...stats, versions: { v1: count } })?.versions).toEqual({});
});

test('does not list a connection whose fields are no text', () => {
  const connections = [
    { id: 'a', version: 'v1', route: '/', ip: 5 },
    { id: 'b', version: null, route: '/' },
  ];
  expect(readStats({ ...stats, connections })?.connections).toEqual([]);
});
