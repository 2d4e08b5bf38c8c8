/** React's view of a Headcount: its immutable snapshot through `useSyncExternalStore`, whole or in part. */
'use client';
import type { ReactNode } from 'react';
import { createContext, createElement, useContext, useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { type Headcount, latestHeadcount, type Snapshot } from './index.js';

export type ActiveConnections = Snapshot;

const Context = createContext<Headcount | undefined>(undefined);

/** Provides a Headcount to all components below it, and counts the page while it is mounted. */
export function HeadcountProvider(props: { headcount: Headcount; children?: ReactNode }) {
  const { headcount, children } = props;
  useEffect(() => headcount.connect(), [headcount]);
  return createElement(Context.Provider, { value: headcount }, children);
}

/**
 * The statistics, live. All components share one stream and one subscription.
 *
 * With a selector, the component renders only when the selected value changes. Objects and arrays are compared by their
 * entries, so `({ total, isStale }) => ({ total, isStale })` is fine.
 *
 * @param headcount Default: the client of the provider, else the one created last.
 */
export function useActiveConnections(): ActiveConnections;
export function useActiveConnections<T>(selector: (live: ActiveConnections) => T, headcount?: Headcount): T;
export function useActiveConnections(selector: (live: Snapshot) => unknown = whole, headcount?: Headcount): unknown {
  const provided = useContext(Context);
  const live = headcount ?? provided ?? latestHeadcount();
  if (!live)
    throw new Error('useActiveConnections() found no Headcount. Add a <HeadcountProvider> above it, or pass one.');
  const last = useRef<unknown>(undefined);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another client needs another cache.
  const select = useMemo(() => {
    let from: Snapshot | undefined;
    let selected: unknown;
    return (snapshot: Snapshot) => {
      if (from !== snapshot) {
        const next = selector((from = snapshot));
        selected = isSame(last.current, next) ? last.current : next;
      }
      return selected;
    };
  }, [selector, live]);
  const value = useSyncExternalStore(
    live.subscribe,
    () => select(live.getSnapshot()),
    () => select(live.getServerSnapshot()),
  );
  useEffect(() => {
    last.current = value;
  });
  return value;
}

const whole = (live: Snapshot) => live;

function isSame(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b) return false;
  const entries = Object.entries(a);
  return (
    entries.length === Object.keys(b).length &&
    entries.every(([key, value]) => Object.hasOwn(b, key) && Object.is(value, (b as Record<string, unknown>)[key]))
  );
}
