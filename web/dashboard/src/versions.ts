/** Which versions the charts show apart, and the colour of each, which it keeps for life. Tests: test/versions.test.ts. */

/** Versions apart, the current one not counted. */
const MAX_SERIES = 7;
/** Stands for all other versions. No version has this name, because versions have no control characters. */
export const REST = '\0';
/** Labels that are no version, and so have no colour. */
const GREY = new Set([REST, 'unknown', '(other)']);

type Counts = Record<string, number>;

/** The current version first, so that it is at the bottom of the chart; then the largest of the hour. */
export function shownVersions(samples: readonly { versions: Counts }[], current: string | undefined): string[] {
  const most = new Map<string, number>();
  for (const { versions } of samples)
    for (const [version, open] of Object.entries(versions)) most.set(version, Math.max(most.get(version) ?? 0, open));
  if (current !== undefined) most.delete(current);
  const others = [...most].sort(([, a], [, b]) => b - a).map(([version]) => version);
  const isLong = others.length > MAX_SERIES;
  return [
    ...(current === undefined ? [] : [current]),
    ...others.slice(0, isLong ? MAX_SERIES - 1 : MAX_SERIES),
    ...(isLong ? [REST] : []),
  ];
}

/** The connections of one name; REST: of all that are not among the names. */
export function openOf(versions: Counts, name: string, names: readonly string[]): number {
  if (name !== REST) return versions[name] ?? 0;
  return Object.entries(versions).reduce((sum, [version, open]) => sum + (names.includes(version) ? 0 : open), 0);
}

/** Colours of the style sheet: --series-0 and so on. */
export const COLOURS = 8;
/** Versions that are remembered: more than a session of a day sees. */
const MAX_KNOWN = 64;

/** A version and the number of its colour; those seen last at the end. */
export type Colour = readonly [version: string, colour: number];

/**
 * Gives each version a colour that no other version in sight has, and that is not taken away again. A version that comes
 * back after others got its colour has it all the same.
 */
export function colourAll(known: readonly Colour[], names: readonly string[]): Colour[] {
  const versions = names.filter((name) => !GREY.has(name));
  const seen = new Map(known);
  const rest = known.filter(([version]) => !versions.includes(version));
  const taken = new Set(versions.flatMap((version) => seen.get(version) ?? []));
  for (const version of versions) {
    if (seen.has(version)) continue;
    const free = [...Array(COLOURS).keys()].filter((colour) => !taken.has(colour));
    // The one that nobody has, or else the one whose version has been out of sight for longest; -1 sorts first.
    const age = (colour: number) => rest.map(([, other]) => other).lastIndexOf(colour);
    const colour = free.sort((a, b) => age(a) - age(b))[0] ?? 0;
    taken.add(colour);
    seen.set(version, colour);
  }
  return [...rest, ...versions.map((version) => [version, seen.get(version)!] as const)].slice(-MAX_KNOWN);
}

/** What another page, or an older dashboard, left there may be anything. */
export function readColours(text: string | null): Colour[] {
  try {
    const found: unknown = JSON.parse(text ?? '[]');
    if (!Array.isArray(found)) return [];
    return found.filter(
      (each): each is Colour =>
        Array.isArray(each) &&
        typeof each[0] === 'string' &&
        Number.isInteger(each[1]) &&
        0 <= each[1] &&
        each[1] < COLOURS,
    );
  } catch {
    return [];
  }
}

const KEY = 'headcount.colours';
let known: Colour[] | undefined;

/** The name of the colour of each version: its class, and the property in the style sheet. */
export function coloursOf(names: readonly string[]): (version: string) => string {
  // A browser that forbids storage throws: then the colours are kept until the page is left.
  try {
    known ??= readColours(sessionStorage.getItem(KEY));
    known = colourAll(known, names);
    sessionStorage.setItem(KEY, JSON.stringify(known));
  } catch {
    known = colourAll(known ?? [], names);
  }
  const colours = new Map(known.filter(([version]) => names.includes(version)));
  return (version) => `series-${colours.get(version) ?? 'grey'}`;
}
