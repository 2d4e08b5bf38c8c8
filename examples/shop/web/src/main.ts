import { headcountPlugin } from 'headcount-client/vue';
import { createApp } from 'vue';
import App from './App.vue';
import { headcount } from './headcount';
import { router } from './router';
import './style.css';
import './admin/admin.css';
import './wares.css';

createApp(App).use(router).use(headcountPlugin, headcount).mount('#app');
