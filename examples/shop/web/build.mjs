// Builds the shop twice, as two releases of it, each into a folder of its own beside the other.
import { build } from 'vite';

for (const version of ['v1', 'v2']) await build({ mode: version, logLevel: 'warn' });
