import { build } from 'esbuild';

/** What Safari 14 and everything newer understands. */
const target = 'es2020';

/** In an application's own bundle the address of the module tells nothing, and some bundlers stumble over asking. */
const packaged = { define: { 'import.meta.url': '""' } };

/** The module that a server hands out; it may stand beside its endpoints, so it keeps `import.meta.url`. */
export async function bundleServed() {
  return bundle('src/index.ts', {});
}

/**
 * What a server hands out beside that module, to build upon it: the two must share one core.
 * @param {string} entry
 */
export async function bundleBeside(entry) {
  const code = Buffer.from(await bundle(entry, packaged)).toString();
  return Buffer.from(code.replace('from"./index.js"', 'from"./client.js"'));
}

/**
 * An entry of the npm package as an application's bundler would put it into a page.
 * @param {string} entry
 */
export async function bundlePackaged(entry) {
  return bundle(entry, packaged);
}

/**
 * The npm package: file by file, so that `.` and `./vue` share one core.
 * @param {string[]} entryPoints
 */
export async function compilePackage(entryPoints) {
  await build({ entryPoints, outdir: 'dist', format: 'esm', target, ...packaged });
}

/**
 * @param {string} entry
 * @param {import('esbuild').BuildOptions} options
 */
async function bundle(entry, options) {
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    minify: true,
    format: 'esm',
    target,
    // Adapters are measured without what they stand on.
    external: ['vue', 'react', './index.js'],
    ...options,
  });
  return /** @type {import('esbuild').OutputFile} */ (outputFiles?.[0]).contents;
}
