import { reactive } from 'vue';
import { headcount } from './headcount';

/** What the server says about this visitor and about itself. */
export const session = reactive({
  role: null as 'admin' | null,
  builds: [] as string[],
});

async function call(path: string, body?: unknown): Promise<Response> {
  const response = await fetch(
    path,
    body === undefined
      ? {}
      : { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) },
  );
  if (response.ok) return response;
  const problem = (await response.json().catch(() => null)) as { detail?: unknown } | null;
  throw new Error(typeof problem?.detail === 'string' ? problem.detail : `The server answered ${response.status}.`);
}

export async function loadSession(): Promise<void> {
  const me = (await (await call('/api/me')).json()) as { role: 'admin' | null; builds: string[] };
  session.role = me.role;
  session.builds = me.builds;
}

// The server authorises a stream with the cookies that it was opened with, so the page opens a new stream after a log-in
// or log-out.
export async function logIn(password: string): Promise<void> {
  await call('/api/login', { password });
  session.role = 'admin';
  headcount.reconnect();
}

export async function logOut(): Promise<void> {
  await call('/api/logout', {});
  session.role = null;
  headcount.reconnect();
}

export async function deploy(version: string): Promise<void> {
  await call('/api/deploy', { version });
}
