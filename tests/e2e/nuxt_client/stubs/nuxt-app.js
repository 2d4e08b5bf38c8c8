// Stands in for `nuxt/app`. The package needs seven functions of it; the rest of Nuxt (server rendering, file-based
// routes, payloads, the build) has no part in what goes over the wire, and installing it would cost 500 packages.
import { parse, serialize } from 'cookie-es';
import { createHooks } from 'hookable'; // the library Nuxt itself uses for its hooks
import { reactive, ref, toRef, watch } from 'vue';
import { options } from '../src/options.js';

let current; // a page has one application, so there is no need for Nuxt's tracking of contexts across `await`

export function createNuxtApp(app, router) {
  const hooks = createHooks();
  current = {
    hooks,
    hook: hooks.hook,
    callHook: hooks.callHook,
    runWithContext: (run) => app.runWithContext(run),
    router,
    state: reactive({}),
  };
  // As in Nuxt, an exception before the first render has finished is fatal for the package: on `app:error` it closes
  // its connection. Later ones only go to the console.
  app.config.errorHandler = (error) => {
    console.error(error);
    hooks.callHook('app:error', error);
  };
  hooks.hook('app:suspense:resolve', () => {
    app.config.errorHandler = undefined;
  });
  return current;
}

export const useNuxtApp = () => current;
export const useRouter = () => current.router;

// Nuxt brands a plugin and reads its metadata here; what is left to do is to call its setup.
export const defineNuxtPlugin = (plugin) => plugin.setup;

// In Nuxt the module writes these values at build time and the server puts them into the HTML.
const config = {
  app: { buildId: options.buildId, baseURL: '/', buildAssetsDir: '/_nuxt/' },
  public: {
    skewProtection: {
      basePath: options.basePath,
      cookie: { name: options.cookieName, path: '/', sameSite: 'lax', maxAge: 7 * 24 * 60 * 60 }, // the module's defaults
      debug: false,
      connectionTracking: true,
      routeTracking: options.routeTracking,
      ipTracking: true,
      reloadStrategy: 'prompt',
      multiTab: true,
      version: '1.3.0',
    },
  },
};
export const useRuntimeConfig = () => config;

// State shared by key; without server rendering there is nothing to restore.
export function useState(key, initial) {
  if (!(key in current.state)) current.state[key] = initial();
  return toRef(current.state, key);
}

// Nuxt's cookies hold JSON-like values: text that would be read back as something else (42, true) is stored in quotes.
function readsAsText(text) {
  try {
    return typeof JSON.parse(text) === 'string';
  } catch {
    return true;
  }
}
function decode(encoded) {
  const text = decodeURIComponent(encoded);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
const encode = (text) => encodeURIComponent(readsAsText(text) ? text : JSON.stringify(text));
const asItIs = (text) => text;

// A ref that writes the cookie when it is assigned. Nuxt's also follows other tabs and expires by itself; the package
// uses neither.
export function useCookie(name, { path, sameSite, maxAge }) {
  const encoded = parse(document.cookie, { decode: asItIs })[name];
  const cookie = ref(encoded ? decode(encoded) : undefined);
  watch(cookie, (value) => {
    // biome-ignore lint/suspicious/noDocumentCookie: the real useCookie sets it like this.
    document.cookie = serialize(name, encode(String(value)), { path, sameSite, maxAge, encode: asItIs });
  });
  return cookie;
}

// The global that Nuxt provides for requests. The package uses it to look for newer builds after a release.
globalThis.$fetch = async (url) => {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${response.status} for ${url}`);
  return response.json();
};
