/**
 * uPlot for all charts: it follows the size of its box, takes its colours from the style sheet, and is redrawn when they
 * change. Tests: test/chart.test.ts, tests/e2e/test_dashboard.py.
 */
import uPlot from 'uplot';
import { onMounted, onScopeDispose, type Ref, watch } from 'vue';

export type Colours = (name: string) => string;

/** The shortest time axis: after a start, a chart of a few seconds would be all noise. */
const MIN_SECONDS = 120;
export const timeScale: uPlot.Scale = { range: (_, first, last) => [Math.min(first, last - MIN_SECONDS), last] };

/** Samples come every 10 s. One may be late or missing; after more, nobody knows what happened meanwhile. */
const GAP_MS = 25_000;

/** Inserts a moment without figures (undefined) wherever samples are missing, so that the curve breaks off there. */
export function withGaps<S extends { at: number }>(samples: readonly S[]): { at: number; sample: S | undefined }[] {
  return samples.flatMap((sample, index) => {
    const before = samples[index - 1];
    const point = { at: sample.at, sample };
    if (!before || sample.at - before.at <= GAP_MS) return [point];
    return [{ at: (before.at + sample.at) / 2, sample: undefined }, point];
  });
}

/** Hours and minutes, without the date: the axis is one hour long. */
export const timeAxis = (colour: Colours): uPlot.Axis => ({
  stroke: colour('muted'),
  grid: { show: false },
  ticks: { show: false },
  size: 24,
  space: 70,
  incrs: [1, 2, 5, 10, 15, 30].map((minutes) => minutes * 60),
  values: (_, times) =>
    times.map((time) => new Date(time * 1000).toLocaleTimeString([], { hour: 'numeric', minute: '2-digit' })),
});

/** The axis of the values, with lines across the chart. */
export const valueAxis = (colour: Colours, text: (value: number) => string, steps?: number[]): uPlot.Axis => ({
  stroke: colour('muted'),
  grid: { stroke: colour('line') },
  ticks: { show: false },
  size: 44,
  ...(steps && { incrs: steps }),
  values: (_, values) => values.map(text),
});

export function useChart(
  box: Ref<HTMLElement | null>,
  height: number,
  options: (colour: Colours) => Omit<uPlot.Options, 'width' | 'height' | 'padding'>,
  data: () => uPlot.AlignedData,
  /** The chart is created again when this changes, because uPlot cannot rename series. */
  shape: () => string,
  /** The chart is drawn again when this changes. */
  extra: () => unknown = () => undefined,
): () => uPlot | undefined {
  let chart: uPlot | undefined;
  const dark = matchMedia('(prefers-color-scheme: dark)');

  function make() {
    chart?.destroy();
    if (!box.value) return;
    const style = getComputedStyle(box.value);
    const colour: Colours = (name) => style.getPropertyValue(`--${name}`).trim();
    chart = new uPlot(
      { ...options(colour), padding: [8, 28, 0, 0], width: box.value.clientWidth, height },
      data(),
      box.value,
    );
  }

  const resize = new ResizeObserver(() => {
    if (box.value && chart && box.value.clientWidth) chart.setSize({ width: box.value.clientWidth, height });
  });
  onMounted(() => {
    make();
    resize.observe(box.value!);
    dark.addEventListener('change', make);
  });
  onScopeDispose(() => {
    resize.disconnect();
    dark.removeEventListener('change', make);
    chart?.destroy();
  });
  // One watcher for both: data of another shape must not reach the chart that is about to be replaced.
  watch([shape, data, extra], ([now], [before]) => (now === before ? chart?.setData(data()) : make()));
  return () => chart;
}
