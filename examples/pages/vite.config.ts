import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';
import { buildId } from './build-id';

export default defineConfig({
  base: './',
  plugins: [buildId(), svelte()],
  build: { rollupOptions: { input: ['react.html', 'svelte.html', 'element.html'] } },
});
