import { createHeadcount } from 'headcount-client'
import { headcountPlugin } from 'headcount-client/vue'
import { createApp } from 'vue'
import App from './App.vue'
import { basePath, told } from './site'
import './style.css'

// Whoever looks is not counted, unless he wants to see himself: dashboard/?counted
const viewer = !new URLSearchParams(location.search).has('counted')
const headcount = createHeadcount({
  basePath,
  updateStrategy: told.updateStrategy,
  viewer,
  ...(viewer ? {} : { version: told.version, routeTracking: true }),
})
const app = createApp(App, { headcount })
app.use(headcountPlugin, headcount)
app.mount('#app')
