/** React's view of a Release: its immutable state through `useSyncExternalStore`. */
'use client';
import { useState, useSyncExternalStore } from 'react';
import { latestRelease, type Release, type ReleaseState } from './release.js';

/**
 * Whether this page is to be replaced, live.
 *
 * @param given Default: the one created last when the component was mounted.
 */
export function useRelease(given?: Release): ReleaseState & Pick<Release, 'onOutdated'> {
  // Kept, because a release that is closed is the latest no more.
  const [latest] = useState(latestRelease);
  const release = given ?? latest;
  if (!release) throw new Error('useRelease() found no release. Call createRelease() first, or pass one.');
  const state = useSyncExternalStore(release.subscribe, release.getSnapshot, release.getServerSnapshot);
  return { ...state, onOutdated: release.onOutdated };
}
