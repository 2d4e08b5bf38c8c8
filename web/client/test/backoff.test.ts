import { afterEach, expect, test, vi } from 'vitest';
import { afterDrainMs, afterEnd, backoffMs, boundedMs, isCut, isRefusal, retryAfterMs } from '../src/backoff.js';
import { createLimit } from '../src/limit.js';
import { reconnect } from './fixtures.js';

const { baseMs, capMs } = reconnect.constants;
const backoff = { baseMs, capMs };

afterEach(() => {
  vi.useRealTimers();
});

const ends = reconnect.ends.filter(({ delayMs }) => delayMs);

test.each(ends)('$name', ({ attempt, openMs, code, namedMs, refused, delayMs, attemptAfter }) => {
  const draws = [0, 0.5, 1].map((random) =>
    afterEnd(attempt, openMs ?? 0, code ?? 1006, namedMs, refused, backoff, random),
  );
  const [least, middle, most] = draws.map(([delay]) => delay);
  expect([least, most]).toEqual(delayMs);
  expect(middle).toBeGreaterThan(least!);
  expect(middle).toBeLessThan(most!);
  expect(draws.map(([, next]) => next)).toEqual(Array(3).fill(attemptAfter));
});

test.each(reconnect.drains)('drain: $name', ({ reconnectMs, delayMs }) => {
  expect([0, 1].map((random) => afterDrainMs(reconnectMs, backoff, random))).toEqual(delayMs);
});

test.each(reconnect.retryAfter.headers)('Retry-After: $name', ({ header, namedMs }) => {
  vi.useFakeTimers({ now: reconnect.retryAfter.nowMs });
  const headers = new Headers(header === null ? {} : { 'retry-after': header });
  expect(retryAfterMs(new Response(null, { headers }))).toBe(namedMs);
});

test('without a response there is no Retry-After', () => {
  expect(retryAfterMs(undefined)).toBe(0);
});

test.each(reconnect.limits)('a limit: $name', ({ lives }) => {
  const limit = createLimit();
  const known = lives.map(({ endedAtMs, openMs }) => {
    limit.ended(endedAtMs, openMs);
    return limit.cutMs();
  });
  expect(known).toEqual(lives.map(({ cutAfterMs }) => cutAfterMs));
});

/** A limit that has been learnt. */
function limitOf(cutMs: number) {
  const limit = createLimit();
  for (const [end, away] of [0, 500, 700].entries()) limit.ended((end + 1) * cutMs + away, cutMs);
  expect(limit.cutMs()).toBe(cutMs);
  return limit;
}

test.each(reconnect.renewals)('renewed before a limit: $name', ({ cutAfterMs, renewMs }) => {
  expect([1, 0].map((random) => limitOf(cutAfterMs).renewMs(random))).toEqual(renewMs);
});

test('after some renewals one stream runs on, and then again', () => {
  const limit = limitOf(10_000);
  const { renewals } = reconnect.constants;
  const renewed = Array.from({ length: 2 * (renewals + 1) }, () => limit.renewMs(0) > 0);
  const turn = [...Array<boolean>(renewals).fill(true), false];
  expect(renewed).toEqual([...turn, ...turn]);
});

test('nothing is renewed while no limit is known', () => {
  expect(createLimit().renewMs()).toBe(0);
});

test.each(reconnect.answers.filter(({ refused }) => refused !== null))('answered by $name', ({ status, refused }) => {
  expect(isRefusal(status)).toBe(refused);
});

test('the close codes of WebSockets, and none, are no refusals', () => {
  expect([0, 1000, 1006, 4400].map(isRefusal)).toEqual([false, false, false, false]);
});

test.each(reconnect.cuts)('a stream that ended with $code was ended from outside: $cut', ({ code, cut }) => {
  expect(isCut(code)).toBe(cut);
  // As transport.ts hands it on.
  expect(isCut(code % 3000 || code)).toBe(cut);
});

test('draws the jitter after the cap, so that late attempts are spread too', () => {
  expect(backoffMs(20, backoff, 0.5)).toBe(15_000);
  expect(backoffMs(5000, backoff, 0.999)).toBe(29_970);
});

test('draws by Math.random where no number is given', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  expect([0, 1, 2, 3].map((attempt) => backoffMs(attempt, backoff))).toEqual([500, 1000, 2000, 4000]);
});

test('bounds what a server names, because timers fire at once for more than they can hold', () => {
  expect([0, 3120, 1e300].map(boundedMs)).toEqual([0, 3120, 3_600_000]);
  expect([-1, NaN, '5', null, undefined, {}].map(boundedMs)).toEqual(Array(6).fill(undefined));
});
