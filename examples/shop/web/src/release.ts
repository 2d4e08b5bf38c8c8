import { computed, onScopeDispose, ref, watch } from 'vue';
import { headcount } from './headcount';

/** The release that the server hands out now: this one, as long as the server announces no other. */
export const current = ref(BUILD_ID);

headcount.onMessage((message) => {
  if (message.type === 'version' && typeof message.version === 'string') current.value = message.version;
});

/** This page is of another release than that. */
export const isOutdated = computed(() => current.value !== BUILD_ID);

/**
 * Load this page anew, as the current release, some seconds after there is one, as long as `mayReload()`.
 *
 * Some seconds and not at once: all pages of a large site that reload in the same moment are a load test. And once for
 * each release: were the server to announce one that it does not hand out, the page would reload for ever.
 */
export function followReleases(mayReload: () => boolean): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const follow = () => {
    if (sessionStorage.getItem('followed') === current.value) return;
    sessionStorage.setItem('followed', current.value);
    location.reload();
  };
  watch(
    () => isOutdated.value && mayReload(),
    (reload) => {
      clearTimeout(timer);
      if (reload) timer = setTimeout(follow, 2000 + Math.random() * 6000);
    },
    { immediate: true },
  );
  onScopeDispose(() => clearTimeout(timer));
}
