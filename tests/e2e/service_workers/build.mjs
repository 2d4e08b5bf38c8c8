// Builds one page into the folder named on the command line, behind each recipe of docs/browser.md (`vite-pwa`, `workbox`) and
// docs/doctor.md (`plain`), word for word, and behind the same service workers without it (`-bare`).
import { cp, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build as bundle } from 'esbuild';
import { build } from 'vite';
import { VitePWA } from 'vite-plugin-pwa';

const root = path.dirname(fileURLToPath(import.meta.url));
const folder = (name) => path.resolve(process.argv[2], name);
const [workbox, vitePwa] = await recipes('browser.md');
const [listener] = await recipes('doctor.md');

async function recipes(file) {
  const docs = await readFile(path.join(root, '../../../docs', file), 'utf8');
  const [, section] = /^## Service workers\n(.*?)^## /ms.exec(docs);
  return [...section.matchAll(/^```js\n(.*?)^```/gms)].map(([, block]) => block);
}

/** Removes what keeps a worker away from Headcount, so that a test can show what it is good for. */
function without(text, ...recipe) {
  for (const [pattern, replacement] of recipe) {
    if (!pattern.test(text)) throw new Error(`${pattern} is not in:\n${text}`);
    text = text.replace(pattern, replacement);
  }
  return text;
}

await build({
  root,
  configFile: false,
  logLevel: 'error',
  plugins: [new Function('VitePWA', `return ${vitePwa}`)(VitePWA)],
  build: { outDir: folder('vite-pwa'), emptyOutDir: true },
});
const worker = await readFile(path.join(folder('vite-pwa'), 'sw.js'), 'utf8');
for (const name of ['vite-pwa-bare', 'workbox', 'workbox-bare', 'plain', 'plain-bare', 'passing']) {
  await cp(folder('vite-pwa'), folder(name), { recursive: true });
}
await writeFile(
  path.join(folder('vite-pwa-bare'), 'sw.js'),
  without(worker, [/!\w+\.pathname\.startsWith\(.\/__skew\/.\)/, 'true'], [/denylist:\s*\[.*?\]/, 'denylist:[]']),
);
// What the application does with its own requests.
const plain =
  without(listener, [/\/\/ …/, 'event.respondWith(copyAndAnswer(event.request))']) +
  `
async function copyAndAnswer(request) {
  const cache = await caches.open('copies')
  const response = await fetch(request)
  cache.put(request, response.clone())
  return response
}
`;
for (const [name, contents] of [
  ['plain', plain],
  ['passing', 'self.addEventListener("fetch", (event) => event.respondWith(fetch(event.request)))'],
  ['plain-bare', without(plain, [/^ +if .*return$/m, ''])],
  ['workbox', workbox],
  ['workbox-bare', without(workbox, [/^\/\/ Before all.*?^\}\);\n/ms, ''])],
]) {
  await bundle({
    stdin: { contents, resolveDir: root },
    outfile: path.join(folder(name), 'sw.js'),
    allowOverwrite: true,
    bundle: true,
    // As bundlers replace it in the code of Workbox.
    define: { 'process.env.NODE_ENV': '"production"' },
    logLevel: 'warning',
  });
}
