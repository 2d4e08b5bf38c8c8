/** In whole per cents. 100 is said of everybody, never of nearly everybody. */
export function share(part: number, whole: number): number {
  if (!whole) return 0;
  return part === whole ? 100 : Math.min(99, Math.round((100 * part) / whole));
}
