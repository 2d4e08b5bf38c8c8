import { ref } from 'vue';

export interface Product {
  number: number;
  name: string;
  cents: number;
  shape: string;
  glaze: string;
  text: string;
}

/** Null until they have been loaded. */
export const products = ref<Product[] | null>(null);

export async function loadProducts(): Promise<void> {
  const response = await fetch('/api/products');
  if (response.ok) products.value = await response.json();
}

const euros = new Intl.NumberFormat('en-IE', { style: 'currency', currency: 'EUR' });
export const price = (cents: number): string => euros.format(cents / 100);
