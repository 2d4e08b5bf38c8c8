import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test, vi } from 'vitest';
import { COLOURS, type Colour, colourAll, coloursOf, openOf, REST, readColours, shownVersions } from '../src/versions';

const many = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => `v${from + index}`);

beforeEach(() => vi.unstubAllGlobals());

test('the current version comes first, then those that were largest at any moment', () => {
  const samples = [{ versions: { a: 5, b: 90, c: 7 } }, { versions: { c: 1, d: 60 } }];
  expect(shownVersions(samples, 'c')).toEqual(['c', 'b', 'd', 'a']);
  expect(shownVersions(samples, undefined)).toEqual(['b', 'd', 'c', 'a']);
  expect(shownVersions([], 'v2')).toEqual(['v2']);
});

test('beyond eight, the smallest are the rest', () => {
  const versions = Object.fromEntries(many(0, 9).map((version, index) => [version, 9 - index]));
  const names = shownVersions([{ versions }], 'v8');
  expect(names).toEqual(['v8', 'v0', 'v1', 'v2', 'v3', 'v4', 'v5', REST]);
  expect(openOf(versions, REST, names)).toBe(3 + 2);
  expect(openOf(versions, 'v0', names)).toBe(9);
  expect(openOf(versions, 'gone', names)).toBe(0);
});

test('a version keeps its colour over any number of releases', () => {
  let known: Colour[] = [];
  for (let release = 0; release < 40; release++) {
    const names = [`v${release}`, ...many(Math.max(0, release - 7), release), 'unknown'];
    const before = new Map(known);
    known = colourAll(known, names);
    const now = new Map(known);
    for (const [version, colour] of before) expect(now.get(version) ?? colour).toBe(colour);
    const inSight = names.filter((name) => name !== 'unknown').map((name) => now.get(name));
    expect(new Set(inSight).size, 'no two in sight have the same').toBe(inSight.length);
    expect(now.has('unknown')).toBe(false);
  }
  expect(known.length).toBe(40);
  expect(colourAll(known, many(100, 108)).length).toBe(48);
  expect(colourAll(colourAll(known, many(100, 108)), many(200, 208)).length).toBe(56);
});

test('those that are remembered are bounded', () => {
  let known: Colour[] = [];
  for (let release = 0; release < 100; release++) known = colourAll(known, [`v${release}`]);
  expect(known.length).toBe(64);
  expect(known.at(-1)![0]).toBe('v99');
});

test('what the storage holds is not believed', () => {
  expect(readColours(null)).toEqual([]);
  for (const wrong of ['{', '7', '{"v1":1}', 'null', `[["v1",${COLOURS}],["v1",-1],["v1",0.5],[1,1],"v1",null]`])
    expect(readColours(wrong)).toEqual([]);
  expect(readColours('[["v1",3],["v2","3"]]')).toEqual([['v1', 3]]);
});

test('colours survive a reload, and a browser that forbids storage has some, too', async () => {
  const stored = new Map([['headcount.colours', '[["v1",5]]']]);
  vi.stubGlobal('sessionStorage', {
    getItem: (key: string) => stored.get(key) ?? null,
    setItem: (key: string, text: string) => stored.set(key, text),
  });
  vi.resetModules();
  const { coloursOf: fresh } = await import('../src/versions');
  const colour = fresh(['v2', 'v1', 'unknown', REST]);
  expect(['v1', 'unknown', REST, '(other)', 'v7'].map(colour)).toEqual(['series-5', ...Array(4).fill('series-grey')]);
  expect(JSON.parse(stored.get('headcount.colours')!)).toContainEqual(['v2', 0]);
  vi.stubGlobal('sessionStorage', {
    getItem() {
      throw new DOMException('The operation is insecure.', 'SecurityError');
    },
  });
  expect(coloursOf(['v1', 'v2'])('v2')).toBe('series-1');
});

/** The contrast of WCAG 2. */
function contrast(one: string, other: string): number {
  const luminance = (hex: string) => {
    const [red, green, blue] = [1, 3, 5]
      .map((at) => Number.parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
  };
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light! + 0.05) / (dark! + 0.05);
}

test('each colour stands out from the background in both schemes', () => {
  const sheet = readFileSync(join(import.meta.dirname, '../src/style.css'), 'utf8');
  const schemes = sheet.split('prefers-color-scheme: dark', 2);
  expect(schemes.length).toBe(2);
  for (const scheme of schemes) {
    const surface = /--surface: (#[0-9a-f]{6})/.exec(scheme)![1]!;
    const colours = [...scheme.matchAll(/--series-(\w+): (#[0-9a-f]{6})/g)];
    expect(colours.map(([, name]) => name)).toEqual([...Array(COLOURS).keys()].map(String).concat('grey'));
    for (const [, name, colour] of colours)
      expect(contrast(colour!, surface), `--series-${name} on ${surface}`).toBeGreaterThanOrEqual(3);
    expect(new Set(colours.map(([, , colour]) => colour)).size).toBe(COLOURS + 1);
  }
});
