// Stands in for `#internal/nuxt/paths`: where Nuxt serves its build from, with the default asset folder.
export const buildAssetsURL = (...parts) => `/_nuxt/${parts.join('/')}`;
