import { createHeadcount, type UpdateStrategy } from 'headcount-client';

// The server chooses the kind of stream; shop.py writes it into the page.
const updateStrategy = document.querySelector<HTMLMetaElement>('meta[name=update-strategy]')?.content;

/** The only stream of this page. The plugin in main.ts opens it when the page is mounted. */
export const headcount = createHeadcount({
  version: BUILD_ID,
  updateStrategy: updateStrategy as UpdateStrategy | undefined,
  routeTracking: true,
});
