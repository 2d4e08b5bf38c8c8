// Bundles two pages, dist/sse.html and dist/ws.html, around the published browser client of nuxt-skew-protection.
// Its files are taken from node_modules as they are; `stubs/` stands in for what Nuxt would generate or provide.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, 'dist');
const pinned = JSON.parse(await readFile(path.join(here, 'package.json'), 'utf8')).devDependencies[
  'nuxt-skew-protection'
];

// The package exports only its build-time entry, dist/module.mjs. It is located here, not loaded.
const packageDist = path.dirname(fileURLToPath(import.meta.resolve('nuxt-skew-protection')));
const installed = JSON.parse(await readFile(path.join(packageDist, '../package.json'), 'utf8')).version;
if (installed !== pinned)
  throw new Error(`expected nuxt-skew-protection ${pinned}, found ${installed}: run npm ci in the root`);

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { sse: 'src/sse.js', ws: 'src/ws.js' },
  outdir: dist,
  bundle: true,
  format: 'iife',
  target: 'es2022',
  metafile: true,
  logLevel: 'warning',
  alias: {
    '#skew-protection': path.join(packageDist, 'runtime'), // the alias that the module itself sets up in a Nuxt project
    'nuxt/app': path.join(here, 'stubs/nuxt-app.js'),
    '#imports': path.join(here, 'stubs/imports.js'),
    '#internal/nuxt/paths': path.join(here, 'stubs/paths.js'),
  },
  define: {
    // what a production build of Nuxt replaces in browser code
    'import.meta.client': 'true',
    'import.meta.server': 'false',
    'import.meta.dev': 'false',
    'import.meta.prerender': 'false',
    'process.env.NODE_ENV': '"production"',
    __VUE_OPTIONS_API__: 'true',
    __VUE_PROD_DEVTOOLS__: 'false',
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false',
  },
});

for (const strategy of ['sse', 'ws']) {
  await writeFile(
    path.join(dist, `${strategy}.html`),
    `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>nuxt-skew-protection ${installed}, ${strategy}</title>
<link rel="icon" href="data:,">
<div id="app"></div>
<script defer src="${strategy}.js"></script>
</html>
`,
  );
}

const used = Object.keys(metafile.inputs)
  .map((file) => path.resolve(here, file))
  .filter((file) => file.startsWith(packageDist + path.sep))
  .map((file) => path.relative(packageDist, file).split(path.sep).join('/'))
  .sort();
for (const needed of [
  'app/composables/useActiveConnections.js',
  'app/utils/create-skew-connection.js',
  'app/plugins/check-updates-sse.client.js',
  'app/plugins/check-updates-websocket.client.js',
]) {
  if (!used.includes(`runtime/${needed}`)) throw new Error(`the bundle does not contain the package's ${needed}`);
}
console.log(
  `nuxt-skew-protection ${installed}, unmodified:\n  ${used.join('\n  ')}\nbuilt dist/sse.html, dist/ws.html`,
);
