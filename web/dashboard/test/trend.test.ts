import { expect, test } from 'vitest'
import { timeToGo, type Point } from '../src/trend'
import { duration, share } from '../src/words'

const MINUTE = 60_000
const every = (values: number[]): Point[] => values.map((value, index) => ({ at: index * MINUTE, value }))

test('what halves every minute is gone when less than half a page is left', () => {
  expect(timeToGo(every([64, 32, 16, 8, 4]))! / MINUTE).toBeCloseTo(3, 5)
})

test('counts from when it was most: before a release its version was the new one', () => {
  expect(timeToGo(every([1, 10, 50, 64, 32, 16, 8, 4]))! / MINUTE).toBeCloseTo(3, 5)
})

test('none left is no time', () => {
  expect(timeToGo(every([4, 2, 1, 0]))).toBe(0)
})

test.each([[[]], [[5]], [[5, 4, 3]], [[5, 5, 5, 5, 5]], [[1, 2, 3, 4, 5]], [[1e9, 1e9 - 1e-3, 1e9 - 2e-3, 1e9 - 3e-3]]])(
  'says nothing about %j, which tells too little or does not shrink',
  (values) => {
    expect(timeToGo(every(values))).toBeUndefined()
  },
)

test('forgets what is long past', () => {
  expect(timeToGo(every([64, 32, 16, ...Array<number>(20).fill(8)]))).toBeUndefined()
})

test('shares never show something as nothing, nor a part as all', () => {
  expect([share(0, 9), share(1, 1000), share(999, 1000), share(9, 9), share(1, 3), share(0, 0)]).toEqual([
    '0%', '<1%', '>99%', '100%', '33%', '0%',
  ])
})

test.each([[139, 61], [1, 199], [199, 1], [3, 1], [2, 1]])('of %i and %i the shares are 100%% together', (part, rest) => {
  const [a, b] = [share(part, part + rest), share(rest, part + rest)].map((text) => Number.parseInt(text.replace(/[<>]/, '')))
  expect(a! + b!).toBe(100)
})

test('durations are in words', () => {
  expect([10_000, MINUTE, 89 * MINUTE, 3 * 60 * MINUTE, 80 * 60 * MINUTE].map(duration)).toEqual([
    'less than a minute', '1 minute', '89 minutes', '3 hours', '3 days',
  ])
})
