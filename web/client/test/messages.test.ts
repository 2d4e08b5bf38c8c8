import { expect, test } from 'vitest';
import { decode, routeLabel, versionLabel } from '../src/messages.js';
import { messages } from './fixtures.js';

test.each(Object.entries(messages.server))('decodes the golden message %s', (type, message) => {
  expect(decode(JSON.stringify(message))).toEqual({ ...message, type });
});

test.each(messages.malformed.filter((text) => !text.startsWith('{"type":"')))('takes %j for no message', (text) => {
  expect(decode(text)).toBeUndefined();
});

const binary = [new ArrayBuffer(4), new Blob(['{"type":"stats"}'])];

test.each([undefined, null, 5, {}, ...binary])('takes %s for no message', (data) => {
  expect(decode(data)).toBeUndefined();
});

test('cuts a label to its length without leaving half a character', () => {
  expect(routeLabel(`${'/'.repeat(511)}😀`)).toBe('/'.repeat(511));
  expect(routeLabel(`${'/'.repeat(510)}😀`)).toBe(`${'/'.repeat(510)}😀`);
  expect(versionLabel(`${'v'.repeat(127)}😀`)).toBe('v'.repeat(127));
});

test('takes what the server refuses out of a label', () => {
  expect(routeLabel('/a\u0000\n\u007f\ud800\u202eb')).toBe('/ab');
  expect(versionLabel(' a\u0000\n\u200b\ud800\u202eb ')).toBe('ab');
});
