// Lines over time, drawn as SVG: crisp, coloured by the style sheet, and told in words.
import { attribute, clock, h, write } from './base.js';

const PAD = { left: 58, right: 12, top: 10, bottom: 24 };
const GAP_MS = 13_000;
const line = (class_, more) => h('line', { class: class_, ...more });

/** Round steps for an axis from 0 to `top`. */
function steps(top, isBytes) {
  const unit = isBytes ? 1024 ** Math.floor(Math.log(top) / Math.log(1024)) : 10 ** Math.floor(Math.log10(top));
  const sizes = isBytes ? [1, 2, 5, 10, 20, 50, 100, 200, 500].map(n => n * unit).concat(unit / 2, unit / 4) : [unit / 5, unit / 2, unit, 2 * unit, 5 * unit];
  const step = sizes.sort((a, b) => a - b).find(size => top / size <= 4.2) ?? top;
  const out = [];
  for (let at = 0; at <= top * 1.0001 + step * 0.999 && out.length < 8; at += step) out.push(at);
  return out;
}

/** Decades, and thirds of them where they are few. */
function decades(low, high) {
  const out = [], from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  for (let at = from; at <= to; at++) { out.push(10 ** at); if (to - from < 3 && at < to) out.push(3 * 10 ** at); }
  return out;
}

/**
 * A chart of `lines`: `{ id, label, of(point) }`, null for nothing. `format` writes a value; `least`
 * is the smallest top of the axis; `isLog` draws decades, `isBytes` steps of 1024.
 */
export class Chart {
  constructor({ title }) {
    this.title = title;
    this.grid = h('g', { class: 'grid' }); this.plots = h('g', { class: 'plots' });
    this.cross = line('cross', { hidden: true });
    this.dots = h('g');
    this.svg = h('svg', { class: 'chart', role: 'img', tabindex: '0' }, this.grid, this.plots, this.cross, this.dots);
    this.tip = h('div', { class: 'tip', hidden: true });
    this.said = h('span', { class: 'sr', 'aria-live': 'polite' });
    this.none = h('p', { class: 'nothing', hidden: true });
    this.legend = h('div', { class: 'legend' });
    this.node = h('div', { class: 'chart-holder' }, this.legend, h('div', { class: 'plot' }, this.svg, this.tip, this.none), this.said);
    this.points = []; this.lines = []; this.at = null;
    this.svg.addEventListener('pointermove', event => this.point(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener('pointerleave', () => this.hover(null));
    this.svg.addEventListener('blur', () => this.hover(null));
    this.svg.addEventListener('keydown', event => this.step(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  show(points, options) {
    const isOther = options.id !== this.options?.id;
    Object.assign(this, { points, options, lines: options.lines });
    if (isOther) {
      this.at = null;
      this.legend.replaceChildren(...this.lines.map(it => h('span', { class: `key ${it.id}` }, h('svg', { viewBox: '0 0 22 8', 'aria-hidden': 'true' }, h('path', { class: `line ${it.id}`, d: 'M1 4H21' })), h('span', {}, it.label), it.value = h('b'))));
      this.plots.replaceChildren(...this.lines.flatMap(it => [it.area = this.lines.length === 1 && h('path', { class: `area ${it.id}` }), it.path = h('path', { class: `line ${it.id}` })].filter(Boolean)));
      for (const it of this.lines) it.parts = { path: it.path, area: it.area, value: it.value };
      this.kept = this.lines;
    } else {
      this.lines.forEach((it, n) => { it.parts = this.kept[n].parts; });
    }
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect(), { options } = this;
    if (!width || !options) return;
    attribute(this.svg, 'viewBox', `0 0 ${width} ${height}`);
    const { from, to } = options, values = this.points.flatMap(point => this.lines.map(it => it.of(point))).filter(value => value != null);
    const plot = { left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: height - PAD.bottom };
    const x = ms => plot.left + (ms - from) / (to - from) * (plot.right - plot.left);
    const { y, ticks } = this.scale(values, plot);
    this.x = x; this.y = y;
    this.none.hidden = values.length > 0;
    write(this.none, options.nothing ?? 'Nothing so far.');
    this.axis(ticks, plot, x, y);
    for (const it of this.lines) {
      const d = this.trace(it, x, y);
      attribute(it.parts.path, 'd', d.line);
      if (it.parts.area) attribute(it.parts.area, 'd', d.area(plot.bottom));
      const last = this.points.length ? it.of(this.points.at(-1)) : null;
      write(it.parts.value, last == null ? '–' : options.format(last));
    }
    attribute(this.svg, 'aria-label', this.words(values));
    this.hover(this.at, true);
  }

  scale(values, plot) {
    const { isLog, isBytes, least } = this.options, top = Math.max(least, ...values);
    if (!isLog) {
      const ticks = steps(top, isBytes), high = ticks.at(-1);
      return { ticks, y: value => plot.bottom - value / high * (plot.bottom - plot.top) };
    }
    const found = values.filter(value => value > 0), ticks = decades(Math.min(...(found.length ? found : [least / 10])), top);
    const [low, high] = [Math.log10(ticks[0]), Math.log10(ticks.at(-1))];
    return { ticks, y: value => plot.bottom - (Math.log10(Math.max(value, ticks[0])) - low) / (high - low || 1) * (plot.bottom - plot.top) };
  }

  axis(ticks, plot, x, y) {
    const { from, to, format } = this.options, marks = [];
    for (const tick of ticks) {
      const at = y(tick);
      marks.push(line('', { x1: plot.left, x2: plot.right, y1: at, y2: at }), h('text', { x: plot.left - 8, y: at + 4, 'text-anchor': 'end' }, format(tick)));
    }
    const span = to - from, step = span > 6e5 ? 3e5 : span > 2e5 ? 6e4 : 3e4, isNarrow = plot.right - plot.left < 320;
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      if (isNarrow && step === 3e4 && at % 6e4) continue;
      const text = new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: step < 6e4 ? '2-digit' : undefined, hour12: false });
      const place = x(at);
      if (place < plot.left + 14 || place > plot.right - 10) continue;
      marks.push(line('tick', { x1: place, x2: place, y1: plot.bottom, y2: plot.bottom + 4 }), h('text', { x: place, y: plot.bottom + 18, 'text-anchor': 'middle' }, text));
    }
    this.grid.replaceChildren(...marks);
  }

  /** Breaks where there was no figure, or none came for a while. */
  trace(it, x, y) {
    const runs = [];
    let last = null;
    for (const point of this.points) {
      const value = it.of(point);
      if (value == null) { last = null; continue; }
      if (last == null || point.unix_ms - last > GAP_MS) runs.push([]);
      runs.at(-1).push([x(point.unix_ms).toFixed(1), y(value).toFixed(1)]);
      last = point.unix_ms;
    }
    // One figure alone is a short stroke, so that it can be seen.
    const draw = run => run.length > 1 ? 'M' + run.map(at => at.join(' ')).join('L') : `M${run[0].join(' ')}h2`;
    return {
      line: runs.map(draw).join('') || 'M0 0',
      area: bottom => runs.map(run => `${draw(run)}L${run.at(-1)[0]} ${bottom}L${run[0][0]} ${bottom}Z`).join('') || 'M0 0',
    };
  }

  words(values) {
    const { format } = this.options;
    if (!values.length) return `${this.title}: ${this.options.nothing ?? 'Nothing so far.'}`;
    const about = this.lines.map(it => {
      const own = this.points.map(it.of).filter(value => value != null);
      return own.length ? `${it.label} now ${format(own.at(-1))}, between ${format(Math.min(...own))} and ${format(Math.max(...own))}` : `${it.label} none`;
    });
    return `${this.title}. ${about.join('; ')}. Arrow keys read single values.`;
  }

  point(px) {
    let best = null, near = Infinity;
    this.points.forEach((point, at) => { const d = Math.abs(this.x(point.unix_ms) - px); if (d < near) { near = d; best = at; } });
    this.hover(best == null ? null : this.points[best].unix_ms);
  }

  step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === 'Escape') return this.hover(null);
    if (!move || !this.points.length) return;
    event.preventDefault();
    const last = this.points.length - 1, here = this.points.findIndex(point => point.unix_ms === this.at);
    const next = Math.min(last, Math.max(0, (here < 0 ? last + 1 : here) + move));
    this.hover(this.points[next].unix_ms);
    write(this.said, this.tip.textContent);
  }

  hover(at) {
    this.at = at;
    const found = at == null ? null : this.points.find(point => point.unix_ms === at);
    this.tip.hidden = !found;
    attribute(this.cross, 'hidden', !found);
    this.dots.replaceChildren();
    if (!found) return;
    const { width, height } = this.svg.getBoundingClientRect(), px = this.x(found.unix_ms);
    for (const [name, value] of Object.entries({ x1: px, x2: px, y1: PAD.top, y2: height - PAD.bottom })) attribute(this.cross, name, value);
    const rows = this.lines.map(it => ({ it, value: it.of(found) }));
    this.dots.append(...rows.filter(({ value }) => value != null).map(({ it, value }) => h('circle', { class: `dot ${it.id}`, cx: px, cy: this.y(value), r: 3.5 })));
    this.tip.replaceChildren(h('span', { class: 'when' }, clock(found.unix_ms)), ...rows.map(({ it, value }) => h('span', { class: `key ${it.id}` }, `${it.label} `, h('b', {}, value == null ? '–' : this.options.format(value)))));
    const isRight = px > width / 2;
    this.tip.style.left = isRight ? 'auto' : `${px + 12}px`;
    this.tip.style.right = isRight ? `${width - px + 12}px` : 'auto';
  }
}

/** Values of a small line that make its whole width, at least and at most. */
const SPARK = [24, 180];
/** A small line without axes, for the eye alone; the newest value stands at the right. */
export function spark() {
  const area = h('path', { class: 'area c1' }), path = h('path', { class: 'line c1' });
  const svg = h('svg', { class: 'spark', viewBox: '0 0 100 28', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, path);
  return {
    node: svg,
    show(all) {
      const values = all.slice(-SPARK[1]), width = Math.max(SPARK[0], values.length) - 1, top = Math.max(...values.filter(value => value != null), 1e-9);
      const x = n => (100 - (values.length - 1 - n) * 100 / width).toFixed(2);
      const d = values.length < 2 ? '' : values.map((value, n) => `${n ? 'L' : 'M'}${x(n)} ${(27 - 24 * (value ?? 0) / top).toFixed(2)}`).join('');
      attribute(path, 'd', d || 'M0 0'); attribute(area, 'd', d ? `${d}L100 28L${x(0)} 28Z` : 'M0 0');
    },
  };
}
