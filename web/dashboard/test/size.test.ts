import { readdirSync, readFileSync } from 'node:fs';
import { brotliCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';

const assets = new URL('../../../src/headcount/static/dashboard/assets/', import.meta.url);

test('all JavaScript is at most 150 kB, compressed', () => {
  const scripts = readdirSync(assets).filter((name) => name.endsWith('.js'));
  expect(scripts.length).toBeGreaterThan(0);
  const bytes = scripts.map((name) => brotliCompressSync(readFileSync(new URL(name, assets))).length);
  expect(bytes.reduce((sum, size) => sum + size)).toBeLessThanOrEqual(150_000);
}, 60_000);
