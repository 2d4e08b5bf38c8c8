import { nextTick } from 'vue';
import { createRouter, createWebHistory, START_LOCATION } from 'vue-router';
import { release } from './release';

export const router = createRouter({
  history: createWebHistory(),
  // Pages are loaded when they are visited, so an open page of an old release still requests parts of that release. This
  // is why the server keeps the old builds.
  routes: [
    { path: '/', component: () => import('./pages/Home.vue'), meta: { title: 'Pots for every day' } },
    { path: '/products', component: () => import('./pages/Products.vue'), meta: { title: 'All pots' } },
    { path: '/products/:number(\\d+)', component: () => import('./pages/Product.vue'), meta: { title: 'Pot' } },
    { path: '/checkout', component: () => import('./pages/Checkout.vue'), meta: { title: 'Checkout' } },
    { path: '/admin', component: () => import('./pages/Admin.vue'), meta: { title: 'Live figures' } },
    { path: '/:rest(.*)', component: () => import('./pages/Missing.vue'), meta: { title: 'Not found' } },
  ],
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
});

// A part of this page may be gone after a deploy. The release then loads the new build, at the page that was wanted.
router.onError((_error, to) => release.recover(to.fullPath));

router.afterEach(async (to, from) => {
  document.title = `${String(to.meta.title)} · Kiln & Shelf`;
  if (from === START_LOCATION || to.path === from.path) return;
  await nextTick();
  // As after a full page load: screen readers and the keyboard start at the top of the new page.
  document.getElementById('content')?.focus();
});
