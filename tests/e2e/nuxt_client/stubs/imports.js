// Stands in for `#imports`, the auto-imports Nuxt generates. The package takes one name from it: the bot detection of
// the robots module, which makes crawlers stay unconnected. A test's browser must connect, so nobody is a bot here.
import { ref } from 'vue';

export const useBotDetection = () => ({ isBot: ref(false) });
