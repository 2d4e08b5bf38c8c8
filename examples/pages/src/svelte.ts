import { mount } from 'svelte';
import Figures from './Figures.svelte';
import { headcount } from './headcount';

mount(Figures, { target: document.querySelector('#app')! });
headcount.connect();
