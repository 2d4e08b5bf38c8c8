/** Where the server is, and what it told this page about itself. */

interface Told {
  version: string;
  updateStrategy: 'sse' | 'ws' | 'auto';
  routeTracking: boolean;
  ipTracking: boolean;
  /** It has an admin token, so one can log in here. */
  token: boolean;
}

const text = document.querySelector<HTMLMetaElement>('meta[name=headcount]')!.content;

export const told: Told = JSON.parse(text);

/** Whoever looks is not counted, unless he wants to see himself: dashboard/?counted */
export const isCounted = new URLSearchParams(location.search).has('counted');

/** The base path as the browser sees it, behind whatever prefix a proxy has put before it. */
export const basePath = new URL('..', location.href).pathname.replace(/\/$/, '');

/** What went wrong, in the server's own sentence. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    detail: string,
  ) {
    super(detail);
  }
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return answer(await fetch(basePath + path, { signal: signal ?? null }));
}

export async function post(path: string, body: object): Promise<void> {
  await answer(
    await fetch(basePath + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    }),
  );
}

async function answer<T>(response: Response): Promise<T> {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, content.detail ?? `The server answered ${response.status}.`);
  return content;
}
