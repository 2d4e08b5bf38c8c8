import { build } from 'esbuild';
import { minify } from 'terser';

/** Safari 14 and every newer browser understand it. */
const target = 'es2021';

/** In an application's own bundle the address of the module is not the server's, and some bundlers reject `import.meta`. */
const packaged = { define: { 'import.meta.url': '""' } };

/** The module that a server serves beside its endpoints, so it keeps `import.meta.url`. */
export async function bundleServed() {
  return bundle('src/index.ts', {});
}

/**
 * A module that a server serves beside `client.js` and that imports it: the two must share one core.
 * @param {string} entry
 */
export async function bundleBeside(entry) {
  const code = Buffer.from(await bundle(entry, packaged)).toString();
  return Buffer.from(code.replace('from"./index.js"', 'from"./client.js"'));
}

/**
 * An entry of the npm package, as an application's bundler would write it.
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
  const { outputFiles: [file] = [] } = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    // Terser names the identifiers: what is named twice compresses worse.
    minifySyntax: true,
    minifyWhitespace: true,
    format: 'esm',
    target,
    // Adapters are measured without the framework and the core.
    external: ['vue', 'react', './index.js', './release.js'],
    ...options,
  });
  if (!file) throw new Error(`esbuild wrote nothing for ${entry}.`);
  // Terser makes of it 5 % less once compressed. What is inlined or joined is shorter, but compresses worse.
  const { code } = await minify(file.text, {
    module: true,
    ecma: 2020,
    compress: { unsafe_methods: true, sequences: false, reduce_funcs: false, hoist_props: false },
  });
  return Buffer.from(/** @type {string} */ (code));
}
