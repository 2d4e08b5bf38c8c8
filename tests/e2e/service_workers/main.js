import { createHeadcount } from 'headcount-client';

const headcount = createHeadcount({
  version: 'v1',
  updateStrategy: new URLSearchParams(location.search).get('strategy') ?? undefined,
  routeTracking: true,
});
headcount.connect();
navigator.serviceWorker.register('/sw.js');
Object.assign(window, { headcount });
