import plugin from '#skew-protection/app/plugins/check-updates-sse.client.js';
import { start } from './page.js';

start(plugin);
