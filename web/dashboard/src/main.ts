/** Starts the dashboard. Tests: tests/e2e/test_dashboard.py. */
import './locale';
import { createHeadcount } from 'headcount-client';
import { headcountPlugin } from 'headcount-client/vue';
import { createApp } from 'vue';
import App from './App.vue';
import { basePath, isCounted, serverSettings } from './server';
import './style.css';

const headcount = createHeadcount({
  basePath,
  updateStrategy: serverSettings.updateStrategy,
  viewer: !isCounted,
  ...(isCounted && { version: serverSettings.version, routeTracking: true }),
});
const app = createApp(App, { headcount });
app.use(headcountPlugin, headcount);
app.mount('#app');
