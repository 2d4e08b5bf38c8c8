import { createRelease } from 'headcount-client/release';
import { itemCount } from './cart';
import { headcount } from './headcount';

/**
 * Brings this page to the current build: the admin page at once, because its figures are not lost by a reload, and
 * another page at its visitor's next click.
 */
export const release = createRelease({
  version: BUILD_ID,
  headcount,
  mode: location.pathname === '/admin' ? 'immediate' : 'next-navigation',
});

// Only this page has the cart.
release.guard(() => itemCount.value === 0);
