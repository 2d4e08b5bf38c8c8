import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { routeLabel, versionLabel } from '../src/messages.js';

type Range = [string, string];
const fixture: { route: Range[]; version: Range[]; versions: Range[] } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../../../protocol/fixtures/labels.json'), 'utf8'),
);

/** All codes of the basic plane for which a label keeps or loses the character against the list. */
function wrong(label: (text: string) => string, forbidden: Range[], exempt: RegExp): number[] {
  const ranges = forbidden.map(([first, last]) => [parseInt(first, 16), parseInt(last, 16)] as const);
  return Array.from({ length: 0x10000 }, (_, code) => code).filter((code) => {
    const character = String.fromCharCode(code);
    const text = `a${character}b`;
    const refused = ranges.some(([first, last]) => first <= code && code <= last);
    if (!refused && (exempt.test(character) || text.normalize('NFKC') !== text)) return false;
    // What NFKC takes for a space becomes one.
    return refused ? !['ab', 'a b'].includes(label(text)) : label(text) !== text;
  });
}

test('a label is stripped of exactly what the server refuses', () => {
  expect(wrong(routeLabel, fixture.route, /^$/)).toEqual([]);
  // Which characters are assigned is another matter in each version of Unicode.
  // The blank pattern of Braille stays: no build has it, and the server says what is wrong.
  expect(wrong(versionLabel, fixture.version, /\p{Cn}/u)).toEqual([0x2800]);
  expect(routeLabel('a🦆b')).toBe('a🦆b');
  expect(routeLabel('/'.repeat(600))).toHaveLength(512);
});

test.each(fixture.versions)('the version %j is sent as %j', (raw, version) => {
  expect(versionLabel(raw)).toBe(version);
});

test('a version has at most 128 characters', () => {
  expect(versionLabel('🦆'.repeat(200))).toHaveLength(128);
  expect(versionLabel('\ufdfa'.repeat(128)).length).toBeLessThanOrEqual(128);
});
