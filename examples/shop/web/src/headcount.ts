import { createHeadcount, type UpdateStrategy } from 'headcount-client';

// Which kind of stream to open is the server's choice; shop.py writes it into the page.
const told = document.querySelector<HTMLMetaElement>('meta[name=update-strategy]')?.content;

/** The one stream of this page. The plug-in in main.ts opens it once the page is mounted. */
export const headcount = createHeadcount({
  version: BUILD_ID,
  updateStrategy: told as UpdateStrategy | undefined,
  routeTracking: true,
});
