import { expect, test } from 'vitest';
import { countPart, matchesRoute, readFilter, routeFilter, writeFilter } from '../src/filter';

test('the URL keeps the filter, and the filter keeps what else the URL has', () => {
  const all = { version: '', route: '', isPart: false };
  for (const filter of [
    { ...all, version: 'v1' },
    { ...all, route: '/a?&=%#ä' },
    { version: 'v 2', route: 'acc', isPart: true },
    all,
  ])
    expect(readFilter(writeFilter('', filter))).toEqual(filter);
  expect(writeFilter('?counted', { ...all, route: '/a' })).toBe('?counted=&route=%2Fa');
  expect(writeFilter('?version=v1&contains=b', all)).toBe('');
});

test('what is too long is no filter', () => {
  expect(readFilter(`?version=${'v'.repeat(129)}&route=/${'a'.repeat(512)}`)).toEqual(readFilter(''));
  expect(readFilter(`?version=${'v'.repeat(128)}`).version.length).toBe(128);
});

test('a whole route is that route alone, and any other text is a part of routes', () => {
  const routes = Object.assign(Object.create(null), { '/': 5, '/account': 2, '/account/pots': 1 });
  const found = (text: string) =>
    Object.keys(routes).filter((route) => matchesRoute({ version: '', ...routeFilter(text, routes) }, route));
  expect(found('/')).toEqual(['/']);
  expect(found('/account')).toEqual(['/account']);
  expect(found('acc')).toEqual(['/account', '/account/pots']);
  expect(found('toString')).toEqual([]);
  expect(found('')).toEqual(Object.keys(routes));
});

test('what matches a part is counted only while every route has a count', () => {
  const part = { version: '', route: 'acc', isPart: true };
  expect(countPart(part, { '/': 5, '/account': 2, '/account/pots': 1 })).toBe(3);
  expect(countPart(part, { '/account': 2, '(other)': 9 })).toBeUndefined();
});
