import { expect, test } from 'vitest';
import { guardLanguage } from '../src/locale';

test.each([
  ['C', 'en'],
  ['de-CH', 'de-CH'],
  ['not a language', 'en'],
])('the language %s is %s for Intl', (language, used) => {
  const navigator = Object.create({ language });
  guardLanguage(navigator);
  expect(navigator.language).toBe(used);
  expect(() => new Intl.NumberFormat(navigator.language)).not.toThrow();
});

test('a browser that says nothing keeps its default', () => {
  const navigator = Object.create({ language: undefined });
  guardLanguage(navigator);
  expect(navigator.language).toBeUndefined();
});
