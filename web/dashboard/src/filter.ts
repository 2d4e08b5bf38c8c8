/** Which connections are listed: chosen in the table, by a version or by a route, and kept in the URL. Tests: test/filter.test.ts. */
import { ref, watch } from 'vue';

export interface Filter {
  version: string;
  route: string;
  /** Routes that contain the text, and not the route itself. */
  isPart: boolean;
}

/** The label of everything beyond the label limit; no connection has this version or route. */
export const OTHER = '(other)';

/** The server takes no longer ones. */
const MAX_VERSION = 128;
const MAX_ROUTE = 512;

/** Reads `?version=v1&route=/a` or `?contains=acc`. What is too long is no filter. */
export function readFilter(search: string): Filter {
  const query = new URLSearchParams(search);
  const read = (name: string, limit: number) => {
    const text = query.get(name) ?? '';
    return text.length <= limit ? text : '';
  };
  const route = read('route', MAX_ROUTE);
  const part = route ? '' : read('contains', MAX_ROUTE);
  return { version: read('version', MAX_VERSION), route: route || part, isPart: part !== '' };
}

/** The query with the filter, and whatever else stood in it. */
export function writeFilter(search: string, { version, route, isPart }: Filter): string {
  const query = new URLSearchParams(search);
  for (const name of ['version', 'route', 'contains']) query.delete(name);
  if (version) query.set('version', version);
  if (route) query.set(isPart ? 'contains' : 'route', route);
  const text = query.toString();
  return text && `?${text}`;
}

export const matchesRoute = ({ route, isPart }: Filter, shown: string) =>
  !route || (isPart ? shown.includes(route) : shown === route);

/** How many connections are on the routes that match; undefined while routes are missing from the counts. */
export const countPart = (filter: Filter, routes: Record<string, number>) =>
  OTHER in routes
    ? undefined
    : Object.entries(routes).reduce((sum, [route, open]) => sum + (matchesRoute(filter, route) ? open : 0), 0);

/** A whole route is taken for itself; else every route with the text in it is meant. */
export const routeFilter = (text: string, routes: Record<string, number>): Pick<Filter, 'route' | 'isPart'> => ({
  route: text.slice(0, MAX_ROUTE),
  isPart: text !== '' && !Object.hasOwn(routes, text),
});

/** The filter of this page; a reload keeps it. */
export function useFilter() {
  const filter = ref(readFilter(location.search));
  watch(filter, (now) => {
    history.replaceState(history.state, '', location.pathname + writeFilter(location.search, now) + location.hash);
  });
  return filter;
}

/** Copies a text; false if the browser does not let us. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not there, or not allowed: the page is not on https, for example.
    const field = document.createElement('textarea');
    field.value = text;
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const isDone = document.execCommand('copy');
    field.remove();
    if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
    return isDone;
  }
}
