import { createHeadcount } from 'headcount-client';

export const headcount = createHeadcount({ version: import.meta.env.VITE_BUILD_ID, routeTracking: true });
