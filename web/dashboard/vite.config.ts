import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative: the page does not know what a proxy has put before its path.
  base: './',
  plugins: [vue()],
  resolve: { dedupe: ['vue'] },
  build: {
    outDir: '../../src/headcount/static/dashboard',
    emptyOutDir: true,
    // The policy allows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
