/**
 * What a reload would take from the user: the input in a form, a film, a question that is open. Elements in
 * `data-headcount-ignore` are left out.
 *
 * A form is dirty from its first `input` or `change`, because neither `value` nor `defaultValue` tell: frameworks set both.
 * Fields without a form count while they hold text that somebody typed. A form that was submitted is clean, but not at
 * once: the answer may be an error, with the input still there to be corrected.
 *
 * `beforeunload` listeners cannot be listed, so they are asked: by the event that a reload would send them.
 */
import type { Reason } from './release-rules.js';

/** Time from a submit until the input is taken for saved. */
const SUBMITTED_MS = 30_000;

type Field = HTMLInputElement;

/** Returns a function that names what a reload would take away, if anything. */
export function createGuards(win: Window, options: AddEventListenerOptions): () => Reason | undefined {
  const { document } = win;
  /** Until when a form, or a field without one, is dirty. */
  const dirty = new Map<Element, number>();

  const note = (event: Event) => {
    // A page of many forms must not keep those that are gone.
    for (const element of dirty.keys()) if (!element.isConnected) dirty.delete(element);
    const field = event.composedPath()[0] as Field;
    const owner = field.form || field.closest?.('form');
    if (event.type === 'reset') dirty.delete(field);
    else if (event.type === 'submit') dirty.has(field) && dirty.set(field, Date.now() + SUBMITTED_MS);
    // Without a form, only what was typed can be lost; `inputType` tells it from a tick or a choice.
    else if (owner || (event as InputEvent).inputType) dirty.set(owner || field, Infinity);
  };
  for (const type of ['input', 'change', 'submit', 'reset']) win.addEventListener(type, note, options);

  const find = (selector: string, test: (element: Field & HTMLMediaElement) => unknown) =>
    [...document.querySelectorAll<Field & HTMLMediaElement>(selector)].some(
      (element) => !ignored(element) && test(element),
    );
  const ignored = (element: Element) => element.closest('[data-headcount-ignore]');

  return () => {
    for (const [element, until] of dirty) {
      const { value, textContent, elements } = element as Field & HTMLFormElement;
      if (element.isConnected && until > Date.now() && !ignored(element) && (elements || (value ?? textContent)))
        return 'form';
    }
    if (
      win.navigator.mediaSession?.playbackState === 'playing' ||
      find('video,audio', (media) => !media.paused && !media.ended)
    )
      return 'media';
    if (find('dialog[open],[role$=dialog],[aria-modal=true]', (dialog) => dialog.getClientRects().length))
      return 'dialog';
    const event = document.createEvent('BeforeUnloadEvent') as BeforeUnloadEvent;
    event.initEvent('beforeunload', false, true);
    win.dispatchEvent(event);
    return event.defaultPrevented || event.returnValue.length ? 'beforeunload' : undefined;
  };
}
