import plugin from '#skew-protection/app/plugins/check-updates-websocket.client.js';
import { start } from './page.js';

start(plugin);
