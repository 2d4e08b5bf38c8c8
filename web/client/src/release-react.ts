/** React's view of a Release: its immutable state through `useSyncExternalStore`. */
'use client';
import { useSyncExternalStore } from 'react';
import { latestRelease, type Release, type ReleaseState } from './release.js';

/**
 * Whether this page is to be replaced, live.
 *
 * @param release Default: the one created last.
 */
export function useRelease(release: Release | undefined = latestRelease()): ReleaseState & Pick<Release, 'onOutdated'> {
  if (!release) throw new Error('useRelease() found no release. Call createRelease() first, or pass one.');
  const state = useSyncExternalStore(release.subscribe, release.getSnapshot, release.getServerSnapshot);
  return { ...state, onOutdated: release.onOutdated };
}
