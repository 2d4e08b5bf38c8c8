import { execSync } from 'node:child_process';
import type { Plugin } from 'vite';

/** Stamps the build id into the bundle: `import.meta.env.VITE_BUILD_ID`, in development and in production. */
export function buildId(id = process.env.BUILD_ID ?? execSync('git rev-parse --short HEAD').toString().trim()): Plugin {
  return {
    name: 'build-id',
    config: () => ({ define: { 'import.meta.env.VITE_BUILD_ID': JSON.stringify(id) } }),
  };
}
