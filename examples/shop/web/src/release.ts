import { computed, onScopeDispose, ref, watch } from 'vue';
import { headcount } from './headcount';

/** The release that the server serves now: this page's own until the server announces another. */
export const current = ref(BUILD_ID);

headcount.onMessage((message) => {
  if (message.type === 'version' && typeof message.version === 'string') current.value = message.version;
});

/** Whether this page is not of the current release. */
export const isOutdated = computed(() => current.value !== BUILD_ID);

/**
 * Reload the page some seconds after a release, while `mayReload()` returns true.
 *
 * Not at once: if all pages of a large site reload in the same moment, the server is overloaded. And only once a release:
 * if the server announces a release that it does not serve, the page would reload for ever.
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
