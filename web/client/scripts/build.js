import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { bundleBeside, bundleServed, compilePackage } from './bundle.js';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));

const served = '../../src/headcount/static';
mkdirSync(served, { recursive: true });
writeFileSync(`${served}/client.js`, await bundleServed());
for (const name of ['element', 'shared', 'release', 'release-element'])
  writeFileSync(`${served}/${name}.js`, await bundleBeside(`src/${name}.ts`));

rmSync('dist', { recursive: true, force: true });
await compilePackage(readdirSync('src').map((file) => `src/${file}`));
// The wheel has no types in it, and to write them takes longer than all the rest.
if (!process.argv.includes('--without-types')) {
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
}
