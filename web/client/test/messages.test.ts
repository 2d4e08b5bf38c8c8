import { expect, test } from 'vitest';
import { decode, label } from '../src/messages.js';
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
  expect(label('/a😀', 3)).toBe('/a');
  expect(label('/a😀', 4)).toBe('/a😀');
});

test('takes what the server refuses out of a label', () => {
  expect(label('/a\u0000\n\u007f\ud800b', 512)).toBe('/ab');
});
