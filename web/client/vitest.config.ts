import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Not test/*.test-d.ts: what they expect of types is checked by `tsc`, in `npm run check`.
    include: ['test/**/*.test.ts'],
    restoreMocks: true,
    // The tests run beside others, at a low priority, and their clocks are their own.
    testTimeout: 120_000,
    // To load jsdom and the frameworks anew for each file takes longer than the tests.
    isolate: false,
  },
});
