import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    restoreMocks: true,
    typecheck: { enabled: true, include: ['test/**/*.test-d.ts'] },
  },
});
