import { expect, test, vi } from 'vitest';
import { sentence } from '../src/absences';
import { clock } from '../src/format';

// The settings of a page, which is not there.
vi.mock('../src/server', () => ({ get: vi.fn() }));

const SINCE = Date.UTC(2026, 10, 28, 14, 2, 11);

test('each node has its state and the time when it was heard last', () => {
  const absences = [
    { node: '3f2a', total: 120, state: 'cut-off', since: SINCE },
    { node: '77', total: 1, state: 'vanished', since: SINCE + 1000 },
  ];
  expect(sentence(absences)).toBe(
    `121 connections are unaccounted for: node 3f2a (stopped or cut off, since ${clock(SINCE)}), ` +
      `77 (since ${clock(SINCE + 1000)}).`,
  );
});

test('what nobody knows is not said', () => {
  expect(sentence([{ node: '77', total: null, state: 'vanished', since: 0 }])).toBe(
    'Connections are unaccounted for: node 77.',
  );
});

test('at most three nodes are named', () => {
  const absences = ['a', 'b', 'c', 'd'].map((node) => ({ node, total: 1, state: 'leaving', since: 0 }));
  expect(sentence(absences)).toBe(
    '4 connections are unaccounted for: node a (stopped properly), b (stopped properly), c (stopped properly), ….',
  );
});
