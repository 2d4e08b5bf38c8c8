/** Numbers and times in words. */

const plain = new Intl.NumberFormat();

export const count = (value: number) => plain.format(value);

const short = new Intl.NumberFormat(undefined, { notation: 'compact' });

/** "10K": for the axis of a chart, which has room for few characters. */
export const shortly = (value: number) => short.format(value);

/** "1 connection", "2,000 connections". */
export const counted = (value: number, one: string, many = one + 's') => `${count(value)} ${value === 1 ? one : many}`;

/**
 * Shares of a few are whole per cents; what is there is never shown as nothing, nor a part as all. Of 69.5% and 30.5% only
 * one is rounded up, so that two parts of a whole are 100% together.
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
  if (minutes < 90) return counted(minutes, 'minute');
  const hours = Math.round(minutes / 60);
  return hours < 48 ? counted(hours, 'hour') : counted(Math.round(hours / 24), 'day');
}

export const clock = (at: number) => new Date(at).toLocaleTimeString();
