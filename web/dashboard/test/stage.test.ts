import { expect, it } from 'vitest';
import { answerSentence, type Rollout, stageSentence } from '../src/stage';

const rollout: Rollout = {
  version: 'v2',
  state: 'running',
  share: 0.42,
  until: 1,
  route: null,
  endsAt: null,
  invited: 812,
  accepted: 700,
  refused: 3,
  deferred: { media: 2, form: 40 },
  silent: 60,
  gone: 7,
  waiting: 1150,
  partial: false,
};

it.each([
  [{}, 'Pages are asked in stages: 42% so far.'],
  [{ until: 0.5, route: '/checkout' }, '50% of pages on /checkout are asked in stages: 42% so far.'],
  [{ state: 'paused' }, 'Pages are asked in stages, and the release is paused: 42% so far.'],
  [{ state: 'aborted' }, 'The staged release was aborted: 42% so far.'],
  [{ state: 'done', route: '/a' }, 'All pages on /a have been asked.'],
  [{ state: 'at-once' }, 'All pages were asked at once.'],
] as [Partial<Rollout>, string][])('says how far the stages are: %j', (change, sentence) => {
  expect(stageSentence({ ...rollout, ...change })).toBe(sentence);
});

it('says what pages did, and names what keeps them, the most frequent first', () => {
  expect(answerSentence(rollout)).toBe(
    '812 pages asked: 700 accepted, 42 deferred (form 40, media 2), 3 refused, 60 without an answer, 7 gone. ' +
      '1,150 wait for a turn.',
  );
});

it('says when a part is missing, and leaves out what nobody did', () => {
  const quiet = { invited: 1, accepted: 0, refused: 0, deferred: {}, silent: 1, gone: 0, waiting: 0, partial: true };
  expect(answerSentence({ ...rollout, ...quiet, invited: 0, silent: 0, waiting: 4, partial: false })).toBe(
    'No page was asked yet. 4 wait for a turn.',
  );
  expect(answerSentence({ ...rollout, ...quiet })).toBe(
    '1 page asked: 0 accepted, 1 without an answer. A node did not answer, so there may be more.',
  );
});
