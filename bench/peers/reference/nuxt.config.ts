// An application with nothing in it but the module. STRATEGY is "sse" or "ws": a build serves one of the two.
export default defineNuxtConfig({
  modules: ['nuxt-skew-protection'],
  buildId: 'v1',
  telemetry: false,
  compatibilityDate: '2026-11-01',
  nitro: { experimental: { websocket: process.env.STRATEGY === 'ws' } },
  skewProtection: {
    updateStrategy: process.env.STRATEGY,
    connectionTracking: true,
    routeTracking: true,
    ipTracking: true,
  },
})
