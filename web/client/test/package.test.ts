import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync } from 'node:zlib';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { bundleBeside, bundlePackaged, bundleServed } from '../scripts/bundle.js';
import { openPage } from './page.js';

const SLOT = '"__HEADCOUNT_DEFAULTS__"';
const directory = mkdtempSync(join(tmpdir(), 'headcount-client-'));
afterAll(() => rmSync(directory, { recursive: true }));

const made = new Map<string, Promise<string>>();

/** The code of a bundle, which is made once: Terser takes half a second for it. */
function once(name: string, make: () => Promise<Uint8Array>) {
  if (!made.has(name))
    made.set(
      name,
      make().then((bytes) => Buffer.from(bytes).toString()),
    );
  return made.get(name)!;
}

const served = () => once('served', bundleServed);
const packaged = (entry: string) => once(`packaged ${entry}`, () => bundlePackaged(entry));
const beside = (entry: string) => once(`beside ${entry}`, () => bundleBeside(entry));

const size = (code: string) => brotliCompressSync(code).length;

// A bundle takes seconds where other work is going on.
vi.setConfig({ testTimeout: 60_000 });

describe('size, minified and compressed', () => {
  test('the core is at most 5,415 bytes', async () => {
    expect(size(await packaged('src/index.ts'))).toBeLessThanOrEqual(5415);
    expect(size(await served())).toBeLessThanOrEqual(5415);
  });

  test.each(['vue', 'react', 'element'])('the adapter %s is at most 1,024 bytes', async (name) => {
    const code = await packaged(`src/${name}.ts`);
    if (name !== 'element') expect(code).toMatch(`from"${name}"`);
    expect(code).toMatch(/from"\.\/index\.js"/);
    expect(size(code)).toBeLessThanOrEqual(1024);
  });

  test('what lets tabs share a stream is at most 2,160 bytes, and a page without it has none of it', async () => {
    const code = await packaged('src/shared.ts');
    expect(code).not.toMatch(/\bimport\b/);
    expect(size(code)).toBeLessThanOrEqual(2160);
    expect(await packaged('src/index.ts')).not.toMatch('BroadcastChannel');
  });

  test('what brings pages to the current version is at most 3,310 bytes, and needs nothing else', async () => {
    const code = await packaged('src/release.ts');
    expect(code).not.toMatch(/\bimport\b/);
    expect(size(code)).toBeLessThanOrEqual(3310);
    expect(await packaged('src/index.ts')).not.toMatch('data-headcount-ignore');
  });

  test.each(['vue', 'react', 'element'])('its adapter %s is at most 1,200 bytes', async (name) => {
    const code = await packaged(`src/release-${name}.ts`);
    expect(code).toMatch(/from"\.\/release\.js"/);
    expect(size(code)).toBeLessThanOrEqual(1200);
  });
});

test('what a server hands out beside the client stands on the very module that the page imports', async () => {
  expect(await beside('src/element.ts')).toMatch(/from"\.\/client\.js"/);
  expect(await beside('src/shared.ts')).not.toMatch(/\bimport\b/);
  expect(await beside('src/release.ts')).not.toMatch(/\bimport\b/);
  const element = await beside('src/release-element.ts');
  expect(element).toMatch(/from"\.\/client\.js"/);
  expect(element).toMatch(/from"\.\/release\.js"/);
});

test('the package runs in Node, depends on nothing and imports nothing', async () => {
  const code = await packaged('src/index.ts');
  expect(code).not.toMatch(/\bimport\b/);
  expect(JSON.parse(readFileSync('package.json', 'utf8')).dependencies).toBeUndefined();
  const file = join(directory, 'package.mjs');
  writeFileSync(file, code);
  const { createHeadcount } = await import(file);
  expect(createHeadcount().getSnapshot().status).toBe('idle');
});

test('the package has the licence in it, which npm takes from its folder only', () => {
  expect(readFileSync('LICENSE', 'utf8')).toBe(readFileSync('../../LICENSE', 'utf8'));
});

describe('the module that a server hands out', () => {
  /** Where a stream goes when the module with these settings in it was loaded from this address. */
  async function streamOf(settings: object | undefined, address: string, options: object = {}) {
    const code = (await served())
      .replace(SLOT, settings ? JSON.stringify(settings) : SLOT)
      // Node imports no http: addresses, so the module is told its own.
      .replace('import.meta.url', JSON.stringify(address));
    const file = join(directory, `${Math.random()}.mjs`);
    writeFileSync(file, code);
    const { createHeadcount } = await import(file);
    const { window } = openPage();
    const urls: string[] = [];
    function WebSocket(url: string) {
      urls.push(`ws ${url}`);
      return { close() {} };
    }
    const fetch = (url: string) => {
      urls.push(`sse ${url}`);
      return new Promise(() => {});
    };
    const headcount = createHeadcount({ window, fetch, WebSocket, ...options });
    headcount.connect();
    headcount.close();
    return urls[0]!;
  }

  test('has its slot exactly once', async () => {
    expect((await served()).split(SLOT)).toHaveLength(2);
    expect((await packaged('src/index.ts')).split(SLOT)).toHaveLength(2);
  });

  test('takes the settings of the server, and over them those of the page', async () => {
    const settings = { basePath: '/live', updateStrategy: 'sse', routeTracking: true };
    const address = 'https://shop.example/live/client.js';
    expect(await streamOf(settings, address)).toBe('sse https://shop.example/live/sse?route=%2Flanding');
    const said = { basePath: '/other', updateStrategy: 'ws', routeTracking: false };
    expect(await streamOf(settings, address, said)).toBe('ws wss://shop.example/other/ws?');
    expect(await streamOf(settings, address, { basePath: undefined })).toContain('/live/sse');
  });

  test('stands beside its endpoints when the server said nothing', async () => {
    const streams = [
      await streamOf(undefined, 'https://shop.example/pro/__skew/client.js?v=3'),
      await streamOf(undefined, 'https://live.example/__skew/client.js'),
    ];
    expect(streams).toEqual(['ws wss://shop.example/pro/__skew/ws?', 'ws wss://live.example/__skew/ws?']);
  });

  test('knows of a prefix that the server does not know of', async () => {
    expect(await streamOf({ basePath: '/__skew' }, 'https://shop.example/pro/__skew/client.js')).toBe(
      'ws wss://shop.example/pro/__skew/ws?',
    );
  });

  test('believes the server when it was copied elsewhere', async () => {
    for (const address of ['https://cdn.example/assets/client.js', 'https://shop.example/assets/app-1a2b.js']) {
      expect(await streamOf({ basePath: '/__skew' }, address)).toBe('ws wss://shop.example/__skew/ws?');
    }
  });
});
