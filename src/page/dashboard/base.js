// What every page needs: elements, figures as text, the API, dialogs.
// What others wrote only ever enters the page as text.

// ---- Elements.
const SVG = 'http://www.w3.org/2000/svg';
const OF_SVG = new Set(['svg', 'path', 'line', 'text', 'g', 'circle', 'rect']);

/** An element: `on…` are listeners, `class` and all others attributes; false ones are left out. */
export function h(tag, props, ...children) {
  const node = OF_SVG.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter(child => child != null && child !== false));
  return node;
}

/** Writes text where it is another: selections and screen readers are left in peace. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function attribute(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// ---- Figures.
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const NONE = '–';
const digits = x => x.toFixed(Math.abs(x) >= 99.95 ? 0 : Math.abs(x) >= 9.995 ? 1 : 2).replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '');
const known = x => typeof x === 'number' && Number.isFinite(x);

export const num = n => known(n) ? whole.format(n) : NONE;
/** A number of at most four characters and its unit: 12.3 k. */
export function short(n) {
  if (!known(n)) return NONE;
  for (const [size, unit] of [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e4, ' k', 1e3]]) {
    if (Math.abs(n) >= size) return digits(n / (unit === ' k' ? 1e3 : size)) + unit;
  }
  return Math.abs(n) >= 100 || Number.isInteger(n) ? whole.format(n) : digits(n);
}
export function bytes(n) {
  if (!known(n)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  for (; Math.abs(n) >= 1000 && at < units.length - 1; at++) n /= 1024;
  return `${at ? digits(n) : Math.round(n)} ${units[at]}`;
}
export function seconds(s) {
  if (!known(s)) return NONE;
  if (s === 0) return '0 s';
  if (s < 1e-3) return `${digits(s * 1e6)} µs`;
  if (s < 1) return `${digits(s * 1e3)} ms`;
  if (s < 120) return `${digits(s)} s`;
  const days = Math.floor(s / 86400), hours = Math.floor(s / 3600) % 24, minutes = Math.floor(s / 60) % 60;
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}
export const percent = share => known(share) ? `${share < 0.0995 ? digits(share * 100) : Math.round(share * 100)} %` : NONE;
export const clock = ms => new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
export const plural = (n, noun) => `${num(n)} ${noun}${n === 1 ? '' : 's'}`;
export function ago(ms, now = Date.now()) {
  const s = Math.max(0, Math.round((now - ms) / 1000));
  return s < 2 ? 'just now' : `${seconds(s)} ago`;
}
/** Characters that nobody sees, and that turn a name into another, are written out. */
const seen = text => text.replace(/[\u200b\u202a-\u202e\u2060-\u2069\ufeff]/g, sign => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`);
/** A name as it may stand in a sentence; what it is made of stays in its own direction. */
export const name = text => h('bdi', { class: 'name' }, seen(text));
export const roomPath = room => `#/rooms/${encodeURIComponent(room)}`;
export const userPath = user => `#/users/${encodeURIComponent(user)}`;
export const roomLink = room => h('a', { href: roomPath(room), class: 'clip', title: room }, name(room));
export const userLink = user => h('a', { href: userPath(user), class: 'clip', title: user }, name(user));

/** JSON with every number as it was sent, where the browser can tell. */
export function parse(text) {
  if (typeof JSON.rawJSON !== 'function') return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => typeof value === 'number' && context?.source && String(value) !== context.source ? JSON.rawJSON(context.source) : value);
}

// ---- The key, for as long as the tab is there, and what it may do.
const KEY = 'tidewheel.key';
export const session = {
  /** `none`: no keys are asked for. `in`, `out`: there is a good key, or not. */
  state: 'none', name: null, scopes: null,
  get key() { try { return sessionStorage.getItem(KEY); } catch { return this.kept ?? null; } },
  set key(key) {
    try { if (key) sessionStorage.setItem(KEY, key); else sessionStorage.removeItem(KEY); } catch { this.kept = key; }
  },
  /** Why something of this scope cannot be done; null where it can. */
  lacks(scope) {
    if (!this.scopes || this.scopes.includes(scope)) return null;
    return `Your key${this.name ? ` “${this.name}”` : ''} may ${this.scopes.join(' and ')}; this needs a key with the scope ${scope}.`;
  },
};
export const changes = new EventTarget();
export const tell = what => changes.dispatchEvent(new Event(what));

/** What the server did not do, and why. */
export class Problem extends Error {
  constructor(status, detail, waits) { super(detail); this.status = status; this.waits = waits; }
}

export function headers(more) {
  const fields = { ...more }, { key } = session;
  if (key) fields.authorization = `Bearer ${key}`;
  return fields;
}

export async function problem(answer) {
  let detail = `The server answered ${answer.status}.`;
  try {
    const told = await answer.json();
    detail = told.detail ?? told.title ?? detail;
  } catch { /* no JSON: the status has to do */ }
  return new Problem(answer.status, detail, Number(answer.headers.get('retry-after')) || 0);
}

/** Calls the API. `body` is JSON text; the answer is parsed. */
export async function call(method, path, body, signal) {
  const sent = headers(body == null ? {} : { 'content-type': 'application/json' });
  let answer;
  try {
    answer = await fetch(`api/v1/${path}`, { method, headers: sent, body, signal, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The server cannot be reached.');
  }
  if (answer.status === 401) { session.state = 'out'; tell('session'); }
  if (!answer.ok) throw await problem(answer);
  const text = await answer.text();
  return text ? parse(text) : {};
}

/** A button that needs a scope: where the key has it not, it says so instead of doing. */
export function scoped(scope, button) {
  const look = () => {
    const reason = session.lacks(scope);
    attribute(button, 'aria-disabled', reason && 'true');
    if (reason) button.title = reason; else button.removeAttribute('title');
  };
  // First of all listeners, where the button is made by `action`.
  button.addEventListener('click', event => {
    const reason = session.lacks(scope);
    if (reason) { event.preventDefault(); event.stopImmediatePropagation(); toast(reason, 'bad'); }
  }, true);
  changes.addEventListener('session', look);
  look();
  return button;
}

// ---- Short notes.
export function toast(text, kind = '') {
  const place = document.getElementById('toasts');
  const note = h('div', { class: `toast ${kind}` }, h('span', { dir: 'auto' }, seen(text)), h('button', { class: 'icon', 'aria-label': 'Dismiss', onclick: () => note.remove() }, icon('close')));
  place.append(note);
  while (place.childElementCount > 4) place.firstChild.remove();
  setTimeout(() => note.remove(), kind === 'bad' ? 12_000 : 6_000);
}

const ICONS = { close: 'm7 7 10 10M17 7 7 17', back: 'm14 6-6 6 6 6', copy: 'M9 9h10v10H9zM15 9V5H5v10h4' };
export const icon = of => h('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' }, h('path', { d: ICONS[of] }));

// ---- Dialogs. The browser keeps the focus inside, and gives it back.
let dialogs = 0;
/**
 * Asks before something is done. `run` may throw a `Problem`, which is shown; the dialog closes when
 * it is done, and its result is a note.
 */
export function ask({ title, about, fields = [], label, danger, run }) {
  const id = `dialog-${++dialogs}`;
  const fault = h('p', { class: 'fault', role: 'alert' });
  const go = h('button', { class: danger ? 'btn danger' : 'btn main', type: 'submit' }, label);
  const close = () => dialog.close();
  const form = h('form', { method: 'dialog', novalidate: true },
    h('h2', { id }, title),
    h('div', { class: 'about' }, about), fields, fault,
    h('div', { class: 'row end' }, h('button', { class: 'btn', type: 'button', onclick: close }, 'Cancel'), go));
  form.addEventListener('submit', async event => {
    event.preventDefault();
    go.disabled = true; write(fault, '');
    try {
      const note = await run();
      close();
      if (note) toast(note, 'good');
    } catch (error) {
      write(fault, error.message); go.disabled = false;
    }
  });
  const dialog = h('dialog', { 'aria-labelledby': id }, form);
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', event => { if (event.target === dialog) close(); });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function field(label, input, hint) {
  input.id ||= `field-${++dialogs}`;
  if (hint) input.setAttribute('aria-describedby', `${input.id}-hint`);
  return h('div', { class: 'field' }, h('label', { for: input.id }, label), input, hint && h('p', { class: 'hint', id: `${input.id}-hint` }, hint));
}

export async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast('Copied.'); } catch { toast('The browser does not allow copying here; select the text instead.', 'bad'); }
}

/** What to type where there is nothing to show. */
export function recipe(about, line) {
  return h('div', { class: 'empty' }, h('p', {}, about), line && h('div', { class: 'recipe' },
    h('code', { tabindex: '0' }, line),
    h('button', { class: 'icon', 'aria-label': 'Copy the command', onclick: () => copy(line) }, icon('copy'))));
}

// ---- Tables: sorted by buttons, rows stay the same elements while their figures change.
/**
 * `columns`: `{ id, label, text(row) or node(get, update), value(row) to sort by, number, rare }`.
 * Rows keep their places while somebody points at them, so that no button moves under the hand.
 */
export class Table {
  constructor({ caption, columns, key, sort, empty }) {
    Object.assign(this, { columns, key, empty, sort, down: true, rows: new Map(), shown: [] });
    this.heads = new Map();
    const head = h('tr', {}, columns.map(column => this.head(column)));
    this.body = h('tbody');
    this.table = h('table', {}, h('caption', { class: 'sr' }, caption), h('thead', {}, head), this.body);
    this.scroller = h('div', { class: 'scroll' }, this.table);
    this.node = h('div', { class: 'holder' }, this.scroller);
    this.mark();
  }

  head(column) {
    const kind = [column.number && 'number', column.rare && 'rare'].filter(Boolean).join(' ');
    if (!column.value) return h('th', { class: kind, scope: 'col' }, column.label ? column.label : h('span', { class: 'sr' }, column.about));
    const button = h('button', { type: 'button', onclick: () => {
      this.down = this.sort === column.id ? !this.down : !!column.number;
      this.sort = column.id; this.mark(); this.order(true);
    } }, column.label);
    const th = h('th', { class: kind, scope: 'col' }, button);
    this.heads.set(column.id, th);
    return th;
  }

  mark() {
    for (const [id, th] of this.heads) attribute(th, 'aria-sort', id === this.sort && (this.down ? 'descending' : 'ascending'));
  }

  show(rows) {
    const seen = new Set();
    for (const row of rows) {
      const key = this.key(row);
      if (seen.has(key)) continue;
      seen.add(key);
      const line = this.rows.get(key) ?? this.line(key, row);
      line.row = row;
      line.updates.forEach(update => update(row));
    }
    for (const [key, line] of this.rows) if (!seen.has(key)) { line.tr.remove(); this.rows.delete(key); }
    this.order();
    const isEmpty = !rows.length;
    this.table.hidden = isEmpty;
    if (isEmpty && !this.note) this.scroller.append(this.note = this.empty());
    if (!isEmpty) { this.note?.remove(); this.note = null; }
  }

  line(key, row) {
    const line = { row, updates: [], tr: h('tr') };
    for (const column of this.columns) {
      const td = h('td', { class: [column.number && 'number', column.rare && 'rare', column.wide && 'wide'].filter(Boolean).join(' ') });
      if (column.node) td.append(column.node(() => line.row, update => line.updates.push(update)));
      else line.updates.push(row => write(td, column.text(row)));
      line.tr.append(td);
    }
    this.rows.set(key, line);
    return line;
  }

  order(isWanted) {
    const isHeld = !isWanted && (this.body.matches(':hover') || this.body.contains(document.activeElement));
    const { value } = this.columns.find(column => column.id === this.sort) ?? {};
    let lines = [...this.rows.values()];
    if (value && !isHeld) {
      lines.sort((a, b) => {
        const [x, y] = [value(a.row), value(b.row)];
        return (x < y ? -1 : x > y ? 1 : 0) * (this.down ? -1 : 1);
      });
    } else if (isHeld) {
      lines = [...this.shown.filter(line => this.rows.get(this.key(line.row)) === line), ...lines.filter(line => !this.shown.includes(line))];
    }
    this.shown = lines;
    lines.forEach((line, at) => { if (this.body.children[at] !== line.tr) this.body.insertBefore(line.tr, this.body.children[at] ?? null); });
  }
}
