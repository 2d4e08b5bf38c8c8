/** The server of this page: its settings, its base path, and requests to it. Tests: tests/e2e/test_dashboard.py. */

interface ServerSettings {
  version: string;
  updateStrategy: 'sse' | 'ws' | 'auto';
  routeTracking: boolean;
  ipTracking: boolean;
  /** Whether the server has an admin token, so that the dashboard can offer a log-in. */
  token: boolean;
}

const text = document.querySelector<HTMLMetaElement>('meta[name=headcount]')!.content;

export const serverSettings: ServerSettings = JSON.parse(text);

/** The dashboard is not counted, unless its address is dashboard/?counted. */
export const isCounted = new URLSearchParams(location.search).has('counted');

/** The base path as the browser sees it, with the prefix that a proxy may have added. */
export const basePath = new URL('..', location.href).pathname.replace(/\/$/, '');

/** The server answered with an error; the message is the `detail` of its problem document. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    detail: string,
  ) {
    super(detail);
  }
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return parse(await fetch(basePath + path, { signal: signal ?? null }));
}

export async function post(path: string, body: object): Promise<void> {
  await parse(
    await fetch(basePath + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    }),
  );
}

async function parse<T>(response: Response): Promise<T> {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new ServerError(response.status, content.detail ?? `The server answered ${response.status}.`);
  return content;
}
