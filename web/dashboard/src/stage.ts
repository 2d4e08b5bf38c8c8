/** How far the release is that was declared last: `GET /admin/rollout`. Tests: test/stage.test.ts, tests/e2e/test_dashboard.py. */
import { clock, count, plural, share } from './format';

export interface Rollout {
  version: string | null;
  state: 'none' | 'at-once' | 'running' | 'paused' | 'aborted' | 'done';
  /** Of the outdated pages that had a turn by now, 0 to 1; and in the end. */
  share: number;
  until: number;
  /** null: all routes. */
  route: string | null;
  /** When the last page gets its turn, in ms since 1970. */
  endsAt: number | null;
  invited: number;
  accepted: number;
  refused: number;
  deferred: Record<string, number>;
  silent: number;
  gone: number;
  waiting: number;
  partial: boolean;
}

/** "Pages are asked in stages until 14:20:00: 42%." */
export function stageSentence(rollout: Rollout): string {
  const { state, until, endsAt, route } = rollout;
  const who = `${until < 1 ? `${share(until, 1)} of pages` : 'Pages'}${route ? ` on ${route}` : ''} are asked in stages`;
  const so = `${share(rollout.share, 1)} so far.`;
  switch (state) {
    case 'running':
      return `${who}${endsAt ? ` until ${clock(endsAt)}` : ''}: ${so}`;
    case 'paused':
      return `${who}, and the release is paused: ${so}`;
    case 'aborted':
      return `The staged release was aborted: ${so}`;
    case 'done':
      return `All pages${until < 1 ? ` of the ${share(until, 1)}` : ''}${route ? ` on ${route}` : ''} have been asked.`;
    default:
      return 'All pages were asked at once.';
  }
}

/** "812 pages asked: 700 accepted, 42 deferred (form 40, media 2), 60 without an answer. 1,150 wait for their turn." */
export function answerSentence(rollout: Rollout): string {
  const reasons = Object.entries(rollout.deferred).sort(([, a], [, b]) => b - a);
  const deferred = reasons.reduce((sum, [, pages]) => sum + pages, 0);
  const parts = [
    `${count(rollout.accepted)} accepted`,
    deferred && `${count(deferred)} deferred (${reasons.map(([name, pages]) => `${name} ${count(pages)}`).join(', ')})`,
    rollout.refused && `${count(rollout.refused)} refused`,
    rollout.silent && `${count(rollout.silent)} without an answer`,
    rollout.gone && `${count(rollout.gone)} gone`,
  ].filter(Boolean);
  const verb = rollout.waiting === 1 ? 'waits' : 'wait';
  const isOver = rollout.state === 'aborted' || rollout.state === 'done';
  const rest = isOver ? `${rollout.waiting === 1 ? 'was' : 'were'} not asked` : `${verb} for a turn`;
  const waiting = rollout.waiting ? ` ${count(rollout.waiting)} ${rest}.` : '';
  const partial = rollout.partial ? ' A node did not answer, so there may be more.' : '';
  const asked = rollout.invited
    ? `${plural(rollout.invited, 'page')} asked: ${parts.join(', ')}.`
    : 'No page was asked yet.';
  return `${asked}${waiting}${partial}`;
}
