/** Numbers, shares, durations and times as text. */

const decimal = new Intl.NumberFormat();

export const count = (value: number) => decimal.format(value);

const compactDecimal = new Intl.NumberFormat(undefined, { notation: 'compact' });

/** "10K", for the axis of a chart. */
export const compact = (value: number) => compactDecimal.format(value);

/** "1 connection", "2,000 connections". */
export const plural = (value: number, one: string, many = one + 's') => `${count(value)} ${value === 1 ? one : many}`;

/**
 * A share in whole percent. A positive part is never shown as 0%, and an incomplete one never as 100%. Of 69.5% and 30.5%
 * only one is rounded up, so that two parts of a whole add up to 100%.
 */
export function share(part: number, whole: number): string {
  if (!whole || !part) return '0%';
  if (part === whole) return '100%';
  const percent =
    2 * part > whole ? 100 - Math.round((100 * (whole - part)) / whole) : Math.round((100 * part) / whole);
  return percent < 1 ? '<1%' : percent > 99 ? '>99%' : `${percent}%`;
}

export function duration(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return 'less than a minute';
  if (minutes < 90) return plural(minutes, 'minute');
  const hours = Math.round(minutes / 60);
  return hours < 48 ? plural(hours, 'hour') : plural(Math.round(hours / 24), 'day');
}

export const clock = (at: number) => new Date(at).toLocaleTimeString();
