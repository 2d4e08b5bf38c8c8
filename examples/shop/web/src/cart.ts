import { computed, reactive } from 'vue';

/** How many of each product, by number. Kept by this page alone: a reload empties it. */
const counts = reactive(new Map<number, number>());

export const itemCount = computed(() => [...counts.values()].reduce((sum, count) => sum + count, 0));
export const items = computed(() => [...counts].map(([number, count]) => ({ number, count })));

/** Change how many of a product are in the cart; at none it leaves the cart. */
export function add(number: number, change = 1): void {
  const count = (counts.get(number) ?? 0) + change;
  if (count > 0) counts.set(number, count);
  else counts.delete(number);
}

export function empty(): void {
  counts.clear();
}
