// Everybody may watch: what a session costs to read is not what is compared.
export default defineNitroPlugin((nitroApp) => {
  nitroApp.hooks.hook('skew:authorize-stats', ({ authorize }) => authorize())
})
