import fc from 'fast-check';
import { expect, test } from 'vitest';
import { applyDelta, type ConnectionInfo, type Figures, readStats } from '../src/stats.js';
import { histories } from './fixtures.js';
import { openPage } from './page.js';

/** Own keys in no order, so that a map with `__proto__` in it compares as what it is. */
function comparable({ yourId: _, ...figures }: Figures) {
  const sorted = (counts: Record<string, number>) => Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1));
  return { ...figures, versions: sorted(figures.versions), routes: sorted(figures.routes) };
}

const whole = (message: object) => readStats({ type: 'stats', ...message })!;

test.each(histories)(
  'a history that the server wrote leads to the same figures, delta by delta: $name',
  ({ before, steps }) => {
    let figures = whole(before);
    for (const { delta, after } of steps) {
      figures = applyDelta(figures, delta)!;
      expect(comparable(figures)).toEqual(comparable(whole(after)));
    }
  },
);

const label = fc.constantFrom('v1', 'v2', '/', '/shopping', '__proto__', 'constructor', 'toString', '(other)', 'ü');
const rows = fc
  .uniqueArray(fc.record({ id: fc.integer({ min: 0, max: 12 }), version: label, route: label }), {
    selector: ({ id }) => id,
    maxLength: 8,
  })
  .map((list): ConnectionInfo[] => list.map(({ id, ...row }) => ({ id: `c${id}`, ...row })));

/** A snapshot as the wire has it, counted from its rows. */
function counted(connections: ConnectionInfo[], revision: number) {
  const count = (field: 'version' | 'route') => {
    const counts: Record<string, number> = Object.create(null);
    for (const row of connections) counts[row[field]] = (counts[row[field]] ?? 0) + 1;
    return counts;
  };
  return { total: connections.length, versions: count('version'), routes: count('route'), connections, revision };
}

function difference(from: ReturnType<typeof counted>, to: ReturnType<typeof counted>) {
  const changed = (before: Record<string, number>, after: Record<string, number>) => {
    const counts: Record<string, number> = Object.create(null);
    for (const key of Object.keys(before)) if (!(key in after)) counts[key] = 0;
    for (const key of Object.keys(after)) if (before[key] !== after[key]) counts[key] = after[key]!;
    return counts;
  };
  const same = (a: ConnectionInfo, b: ConnectionInfo) =>
    a.id === b.id && a.version === b.version && a.route === b.route;
  return {
    type: 'stats-delta',
    base: from.revision,
    revision: to.revision,
    total: to.total,
    versions: changed(from.versions, to.versions),
    routes: changed(from.routes, to.routes),
    connections: {
      set: to.connections.filter((row) => !from.connections.some((other) => same(row, other))),
      remove: from.connections.map(({ id }) => id).filter((id) => !to.connections.some((row) => row.id === id)),
    },
  };
}

const byId = (figures: Figures) => ({
  ...comparable(figures),
  connections: [...figures.connections].sort((a, b) => (a.id < b.id ? -1 : 1)),
});

test('apply(a, diff(a, b)) is b', () => {
  fc.assert(
    fc.property(rows, rows, (before, after) => {
      const [a, b] = [counted(before, 3), counted(after, 8)];
      expect(byId(applyDelta(whole(a), difference(a, b))!)).toEqual(byId(whole(b)));
    }),
  );
});

test('whatever is lost, repeated or late on the way, a page shows true figures or says that they are stale', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(rows, { minLength: 2, maxLength: 8 }),
      fc.array(fc.record({ step: fc.nat(7), lose: fc.boolean() }), { maxLength: 12 }),
      async (lists, deliveries) => {
        const states = lists.map((list, index) => counted(list, 10 + index));
        const page = openPage({ updateStrategy: 'ws' });
        page.headcount.subscribe(() => {});
        await page.stream.connects();
        await page.stream.says({ type: 'stats', ...states[0] });
        for (const { step, lose } of deliveries) {
          const to = states[1 + (step % (states.length - 1))]!;
          if (!lose) await page.stream.says(difference(states[to.revision - 11]!, to));
          const { revision, isStale, ...figures } = page.headcount.getSnapshot();
          const truth = whole(states[revision - 10]!);
          expect(byId({ ...figures, revision })).toMatchObject(byId(truth));
          if (isStale) {
            // It has asked for the whole, and nothing but the whole makes it whole.
            expect(page.stream.sent.at(-1)).toEqual({ type: 'subscribe-stats', deltas: true });
            await page.stream.says({ type: 'stats', ...states[0] });
            expect(page.headcount.getSnapshot()).toMatchObject({ isStale: false, revision: 10 });
          }
        }
        page.headcount.close();
      },
    ),
    { numRuns: 60 },
  );
});
