/** How replies to releases and acknowledgements of messages reach the server. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ReleaseReply } from '../src/index.js';
import { openPage, settled } from './page.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const ID = '9f86d081884c7d65';
const deferred: ReleaseReply = { type: 'release-reply', version: 'v2', reply: 'deferred', reason: 'form' };
const accepted: ReleaseReply = { type: 'release-reply', version: 'v2', reply: 'accepted' };

async function open(updateStrategy: 'sse' | 'ws') {
  const page = openPage({ updateStrategy });
  page.headcount.connect();
  await page.stream.connects({ connectionId: 'own' });
  return page;
}

const sent = ({ posts, stream }: Awaited<ReturnType<typeof open>>) => [
  ...posts.map(({ path, body: { connectionId, type, ...body } }) => {
    expect([path, connectionId]).toEqual([`/__skew/${type}`, 'own']);
    return { type, ...body };
  }),
  ...stream.sent,
];

describe.each(['sse', 'ws'] as const)('on %s', (strategy) => {
  test('a message is acknowledged after the listeners have it, also if one of them fails', async () => {
    const page = await open(strategy);
    const atListener: unknown[] = [];
    page.headcount.onMessage(() => {
      atListener.push(...sent(page));
      throw new Error('of the application');
    });
    await page.stream.says({ type: 'sale', acknowledge: ID });
    expect(atListener).toEqual([]);
    expect(sent(page)).toEqual([{ type: 'acknowledge', id: ID }]);
    expect(() => vi.runOnlyPendingTimers()).toThrow('of the application');
  });

  test('two messages are acknowledged one beside the other, and no route waits for them', async () => {
    const page = await open(strategy);
    for (const id of [ID, ID.replace('9', '8')]) await page.stream.says({ type: 'sale', acknowledge: id });
    page.headcount.setRoute('/b');
    await settled();
    expect(page.posts.length + page.stream.sent.length).toBe(3);
  });

  test.each([true, 7, '', 'x', `${ID}0`, [ID, ID], { id: ID }, null])(
    'a field of the application, %j, is not acknowledged',
    async (acknowledge) => {
      const page = await open(strategy);
      await page.stream.says({ type: 'sale', acknowledge });
      expect(sent(page)).toEqual([]);
    },
  );

  test('a listener that closes or reconnects leaves nothing to acknowledge on', async () => {
    for (const what of ['close', 'reconnect'] as const) {
      const page = await open(strategy);
      page.headcount.onMessage(() => page.headcount[what]());
      await page.stream.says({ type: 'sale', acknowledge: ID });
      expect([page.posts, page.streams.flatMap((stream) => stream.sent)]).toEqual([[], []]);
    }
  });

  test('a reply uses the stream, and one before a reload a beacon as well', async () => {
    const page = await open(strategy);
    page.headcount.reply(deferred);
    await settled();
    expect([sent(page), page.beacons]).toEqual([[deferred], []]);
    page.headcount.reply(accepted);
    await settled();
    expect(sent(page)).toEqual([deferred, accepted]);
    expect(page.beacons).toEqual([['/__skew/release-reply', JSON.stringify({ connectionId: 'own', ...accepted })]]);
  });

  test('without a stream, no reply is sent', async () => {
    const page = await open(strategy);
    await page.stream.breaks();
    page.headcount.reply(accepted);
    await settled();
    expect([page.posts, page.beacons, page.stream.sent]).toEqual([[], [], []]);
  });
});

test.each([404, 429, 503])('an answer of %d ends no stream, is no error, and nothing is sent again', async (status) => {
  const page = await open('sse');
  page.headcount.reply(deferred);
  await settled();
  await page.posts[0]!.answer(status);
  await vi.advanceTimersByTimeAsync(5000);
  expect(page.posts).toHaveLength(1);
  expect([page.stream.closed, page.headcount.getSnapshot().error]).toEqual([false, null]);
});
