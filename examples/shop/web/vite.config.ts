import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vite';

// The mode is the release that is built: `vite build --mode v2`. Everything that makes v2 another release hangs on
// BUILD_ID; in a real project this is the commit.
export default defineConfig(({ mode }) => ({
  base: `/builds/${mode}/`,
  define: { BUILD_ID: JSON.stringify(mode) },
  plugins: [vue(), { name: 'build-id', transformIndexHtml: (html: string) => html.replace('%BUILD_ID%', mode) }],
  resolve: { dedupe: ['vue'] },
  build: {
    outDir: `../static/${mode}`,
    emptyOutDir: true,
    // The page's content security policy allows no data: URLs.
    assetsInlineLimit: 0,
  },
}));
