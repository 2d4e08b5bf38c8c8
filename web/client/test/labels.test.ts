import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { label } from '../src/messages.js';

const { forbidden }: { forbidden: [string, string][] } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../../../protocol/fixtures/labels.json'), 'utf8'),
);

test('a label is stripped of exactly what the server refuses', () => {
  const ranges = forbidden.map(([first, last]) => [parseInt(first, 16), parseInt(last, 16)] as const);
  const wrong = Array.from({ length: 0x10000 }, (_, code) => code).filter((code) => {
    const character = String.fromCharCode(code);
    const refused = ranges.some(([first, last]) => first <= code && code <= last);
    return label(`a${character}b`, 9) !== (refused ? 'ab' : `a${character}b`);
  });
  expect(wrong).toEqual([]);
  expect(label('a🦆b', 9)).toBe('a🦆b');
});
