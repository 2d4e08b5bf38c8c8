// @vitest-environment jsdom
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createGuards } from '../src/release-guards.js';

let ended: AbortController;
let inTheWay: () => string | undefined;

beforeEach(() => {
  vi.useFakeTimers();
  ended = new AbortController();
  inTheWay = createGuards(window, { capture: true, signal: ended.signal });
});
afterEach(() => {
  ended.abort();
  vi.useRealTimers();
  document.body.replaceChildren();
});

function show(html: string) {
  document.body.innerHTML = html;
  return document.body.querySelector<HTMLInputElement>('.it')!;
}

function type(field: HTMLElement, text: string) {
  if ('value' in field) field.value = text;
  else field.textContent = text;
  field.dispatchEvent(new InputEvent('input', { bubbles: true, composed: true, inputType: 'insertText' }));
}

const choose = (field: HTMLElement) => field.dispatchEvent(new Event('change', { bubbles: true }));

test('nothing is in the way of a page that nobody touched, whatever its fields hold', () => {
  show('<form><input value="a"><textarea>b</textarea></form><p contenteditable>c</p>');
  document.querySelector('input')!.value = 'set by a framework';
  expect(inTheWay()).toBeUndefined();
});

test.each([
  '<form><input class="it"></form>',
  '<form><textarea class="it"></textarea></form>',
  '<form id="f"></form><input class="it" form="f">',
  '<form><p class="it" contenteditable></p></form>',
  '<input class="it">',
  '<p class="it" contenteditable></p>',
])('what was typed into %s is', (html) => {
  type(show(html), 'a');
  expect(inTheWay()).toBe('form');
});

test('a choice in a form is in the way, and one without a form is not', () => {
  choose(show('<form><select class="it"><option>a</option></select></form>'));
  expect(inTheWay()).toBe('form');
  choose(show('<input type="checkbox" class="it">'));
  expect(inTheWay()).toBeUndefined();
});

test('a form stays dirty when a field was emptied, and a field without a form does not', () => {
  const field = show('<form><input class="it"></form>');
  type(field, 'a');
  type(field, '');
  expect(inTheWay()).toBe('form');
  const message = show('<textarea class="it"></textarea>');
  type(message, 'a chat');
  expect(inTheWay()).toBe('form');
  message.value = '';
  expect(inTheWay()).toBeUndefined();
});

test('a form that was submitted is clean half a minute later, unless somebody corrects it', async () => {
  const field = show('<form><input class="it"></form>');
  const submit = () => field.form!.dispatchEvent(new Event('submit', { bubbles: true, cancelable: true }));
  type(field, 'a');
  submit();
  await vi.advanceTimersByTimeAsync(29_000);
  expect(inTheWay()).toBe('form');
  type(field, 'b');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inTheWay()).toBe('form');
  submit();
  await vi.advanceTimersByTimeAsync(30_001);
  expect(inTheWay()).toBeUndefined();
});

test('a form that was reset or removed is clean', () => {
  const field = show('<form><input class="it"></form>');
  type(field, 'a');
  field.form!.reset();
  expect(inTheWay()).toBeUndefined();
  type(field, 'a');
  field.form!.remove();
  expect(inTheWay()).toBeUndefined();
});

test('a form and a player that are marked are left out', () => {
  type(show('<div data-headcount-ignore><form><input class="it"></form><video></video></div>'), 'a');
  vi.spyOn(HTMLMediaElement.prototype, 'paused', 'get').mockReturnValue(false);
  expect(inTheWay()).toBeUndefined();
});

test.each(['audio', 'video'])('%s that plays is in the way, and not when it has paused or ended', (tag) => {
  show(`<${tag}></${tag}>`);
  expect(inTheWay()).toBeUndefined();
  vi.spyOn(HTMLMediaElement.prototype, 'paused', 'get').mockReturnValue(false);
  expect(inTheWay()).toBe('media');
  vi.spyOn(HTMLMediaElement.prototype, 'ended', 'get').mockReturnValue(true);
  expect(inTheWay()).toBeUndefined();
});

test.each([
  '<dialog open></dialog>',
  '<div role="dialog"></div>',
  '<div role="alertdialog"></div>',
  '<p aria-modal="true">',
])('%s is in the way while it is drawn', (html) => {
  show(html);
  expect(inTheWay()).toBeUndefined();
  vi.spyOn(Element.prototype, 'getClientRects').mockReturnValue([{}] as unknown as DOMRectList);
  expect(inTheWay()).toBe('dialog');
});

test('a listener that would ask the user before they leave is in the way, and one that only listens is not', () => {
  const seen = vi.fn();
  window.addEventListener('beforeunload', seen, { signal: ended.signal });
  expect([inTheWay(), seen.mock.calls.length]).toEqual([undefined, 1]);
  window.addEventListener('beforeunload', (event) => event.preventDefault(), { signal: ended.signal });
  expect(inTheWay()).toBe('beforeunload');
});
