import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  afterCheck,
  afterReload,
  isOutdated,
  judgeDocument,
  judgeRecord,
  type Mode,
  mayReload,
  planFor,
  readRecord,
  targetOf,
} from '../src/release-rules.js';

const NOW = 1_800_000_000_000;
const NONE = readRecord('');
const plan = (target: string, release?: number) => planFor(target, release, NOW);

describe('what a page wants to get away to', () => {
  test('is nothing while the current version or its own is not known', () => {
    expect([isOutdated('v1', undefined), isOutdated('', 'v2')]).toEqual([null, null]);
    expect(targetOf('v1', undefined, false)).toBeUndefined();
    expect([isOutdated('v1', 'v1'), targetOf('v1', 'v1', false)]).toEqual([false, undefined]);
  });

  test('is the current version', () => {
    expect([isOutdated('v1', 'v2'), targetOf('v1', 'v2', false), targetOf('v1', 'v2', true)]).toEqual([
      true,
      'v2',
      'v2',
    ]);
  });

  test('is any other version for a page that misses a part, and no name that a server could say', () => {
    for (const current of [undefined, 'v1']) expect(targetOf('v1', current, true)).toBe(' v1');
  });
});

describe('the record of reloads', () => {
  const after = (times: number, target = 'v2') => {
    let record = NONE;
    for (let time = 0; time < times; time++) record = afterReload(record, 'v1', plan(target), NOW);
    return record;
  };

  test('lets the first reload happen at once, the next after growing delays, and no fourth', () => {
    expect(judgeRecord(NONE, plan('v2'), NOW)).toBeUndefined();
    const waits = [1, 2].map((times) => {
      let seconds = 0;
      while (judgeRecord(after(times), plan('v2'), NOW + seconds * 1000)) seconds++;
      return seconds;
    });
    expect(waits).toEqual([30, 300]);
    expect(judgeRecord(after(3), plan('v2'), NOW + 1e12)).toBe('exhausted');
  });

  test('starts anew with a version that the tab does not know', () => {
    expect(judgeRecord(after(3), plan('v3'), NOW)).toBeUndefined();
    expect(afterReload(after(3), 'v1', plan('v3'), NOW).reloads).toBe(1);
  });

  test('lets a roll-back happen, later, and then the same version again', () => {
    const back = afterReload(after(1), 'v2', plan('v1'), NOW + 30_000);
    expect(judgeRecord(after(1), plan('v1'), NOW)).toBe('early');
    expect(back.reloads).toBe(2);
    expect(judgeRecord(back, plan('v2'), NOW + 30_000 + 300_000)).toBeUndefined();
  });

  test('bounds the reloads whatever versions alternate, and however long', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ served: fc.constantFrom('v1', 'v2'), current: fc.constantFrom('v1', 'v2') }), {
          maxLength: 200,
        }),
        fc.integer({ min: 0, max: 3_600_000 }),
        (steps, stepMs) => {
          let [mine, record, now, reloads] = ['v1', NONE, NOW, 0];
          for (const { served, current } of steps) {
            now += stepMs;
            const target = targetOf(mine, current, false);
            if (!target || judgeRecord(record, plan(target), now)) continue;
            record = readRecord(JSON.stringify(afterReload(record, mine, plan(target), now)));
            mine = served;
            reloads++;
          }
          expect(reloads).toBeLessThanOrEqual(3);
        },
      ),
    );
  });

  test('gives a version that is released again three reloads of its own, however often', () => {
    let [mine, record] = ['v1', NONE];
    for (let number = 1; number <= 100; number++) {
      const target = mine === 'v1' ? 'v2' : 'v1';
      expect(judgeRecord(record, plan(target, number), NOW)).toBeUndefined();
      record = readRecord(JSON.stringify(afterReload(record, mine, plan(target, number), NOW)));
      expect([record.reloads, record.release]).toEqual([1, number]);
      mine = target;
    }
    for (let time = 0; time < 2; time++) record = afterReload(record, 'v2', plan('v1', 100), NOW);
    expect(judgeRecord(record, plan('v1', 100), NOW)).toBe('exhausted');
    expect(judgeRecord(record, plan('v1', 101), NOW)).toBeUndefined();
  });

  test('counts for the same release where a server does not number releases, or names an older one', () => {
    const [numbered, mixed] = [5, undefined].map((release) => {
      let record = NONE;
      for (const number of [release, 5, undefined]) record = afterReload(record, 'v1', plan('v2', number), NOW);
      return record;
    });
    for (const record of [numbered!, mixed!]) {
      expect([record.reloads, record.release]).toEqual([3, 5]);
      for (const number of [undefined, 0, 4, 5]) {
        expect(judgeRecord(record, plan('v2', number), NOW + 1e12)).toBe('exhausted');
      }
    }
    expect(judgeRecord({ ...numbered!, unnumbered: false }, plan('v2', 6), NOW)).toBeUndefined();
    // A release may have been counted before it had a number.
    expect(judgeRecord(after(3), plan('v2', 7), NOW)).toBe('exhausted');
  });

  test('gives each release of a fleet three reloads at most, though older nodes do not say its number', () => {
    const step = fc.record({
      isNext: fc.boolean(),
      version: fc.constantFrom('v1', 'v2', 'v3'),
      isHidden: fc.boolean(),
      served: fc.constantFrom('v1', 'v2', 'v3'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        let [mine, record, now, number, current] = ['v1', NONE, NOW, 0, 'v1'];
        const reloads: number[] = [0];
        for (const { isNext, version, isHidden, served } of steps) {
          now += 3_600_000;
          if (isNext) [number, current] = [reloads.push(0) - 1, version];
          const wanted = plan(current, isHidden ? undefined : number);
          if (current === mine || judgeRecord(record, wanted, now)) continue;
          record = readRecord(JSON.stringify(afterReload(record, mine, wanted, now)));
          mine = served;
          reloads[number]!++;
        }
        expect(Math.max(...reloads)).toBeLessThanOrEqual(3);
      }),
    );
  });

  test('bounds the reloads of a tab between servers that name releases in any order', () => {
    const release = fc.record({ version: fc.constantFrom('v1', 'v2', 'v3'), number: fc.option(fc.nat(3)) });
    fc.assert(
      fc.property(fc.array(fc.tuple(release, fc.constantFrom('v1', 'v2', 'v3')), { maxLength: 200 }), (steps) => {
        let [mine, record, now, reloads] = ['v1', NONE, NOW, 0];
        for (const [{ version, number }, served] of steps) {
          now += 3_600_000;
          const wanted = plan(version, number ?? undefined);
          if (version === mine || judgeRecord(record, wanted, now)) continue;
          record = readRecord(JSON.stringify(afterReload(record, mine, wanted, now)));
          mine = served;
          reloads++;
        }
        // Three for each version that is new to the tab, and for each of the four numbers.
        expect(reloads).toBeLessThanOrEqual(3 * (3 + 4));
      }),
    );
  });

  test('is not held for ever by a clock that was set back', () => {
    expect(judgeRecord(after(1), plan('v2'), NOW - 86_400_000)).toBeUndefined();
    expect(judgeRecord(after(3), plan('v2'), NOW - 86_400_000)).toBe('exhausted');
  });

  test('stays small', () => {
    let record = NONE;
    for (let number = 0; number < 100; number++)
      record = afterReload(record, `v${number}`, plan(`v${number + 1}`), NOW);
    expect(record.seen.length).toBeLessThanOrEqual(16);
    expect(record.seen.at(-1)).toBe('v100');
  });

  test.each([
    '',
    'null',
    '{}',
    '[]',
    '3',
    '{"reloads":1}',
    '{"reloads":-1,"at":1,"seen":[]}',
    '{"reloads":1,"at":1,"seen":"v2"}',
    '{',
  ])('is none if %j is stored', (text) => {
    expect(readRecord(text)).toEqual({ reloads: 0, at: 0, seen: [] });
  });
});

test.each(['"5"', 'null', '{}', '[]'])('a release of %s in the record is none', (release) => {
  expect(readRecord(`{"reloads":1,"at":1,"seen":[],"release":${release}}`).release).toBeUndefined();
});

describe('checking whether the version is served', () => {
  test('goes on with growing delays that differ from page to page, for as long as it takes', () => {
    let plan = planFor('v2', undefined, NOW);
    const delays = [0, 0, 0, 0, 0, 0, 0].map(() => {
      plan = afterCheck(plan, false, NOW, 0.5);
      return plan.checkAt - NOW;
    });
    expect(delays).toEqual([10, 20, 40, 80, 160, 300, 300].map((seconds) => seconds * 1000));
    const [least, most] = [0, 0.999].map(
      (random) => afterCheck(planFor('v2', undefined, NOW), false, NOW, random).checkAt - NOW,
    );
    expect([least! >= 5000, most! < 15_000]).toEqual([true, true]);
    expect(plan.armed).toBe(false);
  });

  test('arms the next navigation once it is', () => {
    expect(afterCheck(planFor('v2', undefined, NOW), true, NOW, 0)).toMatchObject({ armed: true, target: 'v2' });
  });
});

describe('what a document says of its version', () => {
  const OLD = ['/assets/index-BIZOYYNN.js', 'https://cdn.example/vendor.js', null];
  const vite = (name: string) => `<head><script type="module" crossorigin src="/assets/${name}"></script></head>`;

  test.each([
    ['<meta name="headcount-version" content="v2">', true],
    ['<meta name=headcount-version content=v2>', true],
    ['<meta name="headcount-version" content="v1" />', false],
    ['<meta name="headcount-version" content="v3">' + vite('index-qOoQm9gF.js'), false],
  ])('%s decides', (html, expected) => {
    expect(judgeDocument(html, 'v1', 'v2', OLD)).toBe(expected);
  });

  test('a page that misses a part is content with any other version', () => {
    const says = (version: string) => `<meta name="headcount-version" content="${version}">`;
    expect([says('v1'), says('v3')].map((html) => judgeDocument(html, 'v1', undefined, []))).toEqual([false, true]);
  });

  test.each([
    [vite('index-BIZOYYNN.js'), false],
    [vite('index-qOoQm9gF.js'), true],
    [vite('index-qOoQm9gF.js').replaceAll('"', ''), true],
    ['<script defer src="/main.8e3f1a2b.js"></script>', true],
    // Names without a hash are the same in every version, whether or not the page has them.
    ['<script src="/static/htmx.min.js"></script><script src="https://cdn.example/vendor.js"></script>', undefined],
    ['<script src="/app.production.js"></script>', undefined],
    ['<h1>Bad gateway</h1>', undefined],
    ['<script src="/a/hero-image_Q7.min.js"></script>', undefined],
    ['<script src="/a/index-Ab-_cd1Z.js?v=1"></script>', true],
    ['<script src="/a/_-aB3d-f_h.mjs"></script>', true],
    ['<script async\n  src="/a/2f3c9d1e.js" data-of="x-AAAAAAAA.js"></script>', undefined],
    ['<script nonce="AbCdEfGh" src=/a/app.2f3c9d1e.js></script>', true],
  ])('%s by the names of its scripts: %s', (html, expected) => {
    expect(judgeDocument(html, 'v1', 'v2', OLD)).toBe(expected);
  });
});

describe('a hostile document', () => {
  const LARGE = 300_000;
  /** Where other work is going on, a reader of one pass needs a fraction of a second, and one that comes back minutes. */
  const timeout = 10_000;

  test.each([
    '<script ',
    '<script src=',
    '<script src=-',
    '<script src="a.js ',
    '<script src=.',
    ' src=A-',
    '-A',
    'A.',
    '.js',
    '<meta name=headcount-version ',
    '<meta  ',
    ' ',
  ])('of many times %j is read in one pass', { timeout }, (part) => {
    const parts = part.repeat(LARGE / part.length);
    for (const html of [parts, `<script src=${parts}`, `<meta ${parts}`, `<script src="${parts}A.js"></script>`]) {
      const verdict = judgeDocument(html, 'v1', 'v2', []);
      expect([true, undefined]).toContain(verdict);
    }
  });
});

describe('modes', () => {
  const modes: Mode[] = ['prompt', 'next-navigation', 'hidden', 'idle', 'immediate'];
  const due = (situation: { hidden?: boolean; idleMs?: number; missing?: boolean }) =>
    modes.filter((mode) => mayReload({ mode, hidden: false, idleMs: 0, missing: false, ...situation }));

  test('reload by themselves when they say so', () => {
    expect(due({})).toEqual(['immediate']);
    expect(due({ hidden: true })).toEqual(['hidden', 'idle', 'immediate']);
    expect(due({ idleMs: 59_999 })).toEqual(['immediate']);
    expect(due({ idleMs: 60_000 })).toEqual(['idle', 'immediate']);
  });

  test('do not let a page that misses a part wait for a navigation that it cannot make', () => {
    expect(due({ missing: true })).toEqual(['next-navigation', 'immediate']);
  });
});
