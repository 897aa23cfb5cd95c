// The stream of figures: read with `fetch`, so that the key goes in a header; found again when it ends.
import { attribute, call, h, headers, num, problem, session, tell, write } from './base.js';

/** A quarter of an hour in the server's points; two minutes in what came each second. */
const PAST_MS = 900_000, FINE_MS = 125_000;
/** After this long without an event the figures are old. */
export const STALE_MS = 4_000;
const WAIT_MAX_MS = 20_000;

export const store = {
  event: null, past: [], recent: [], node: null,
  /** When the last event came, by the page's own clock. */
  heardAt: 0,
  /** Points of five seconds, and what came since the last of them. */
  coarse() {
    const last = this.past.at(-1)?.unix_ms ?? 0;
    return [...this.past, ...this.recent.filter(point => point.unix_ms > last)];
  },
  /** Points of a second, before them those of five. */
  fine() {
    const first = this.recent[0]?.unix_ms ?? Infinity;
    return [...this.past.filter(point => point.unix_ms < first), ...this.recent];
  },
};

const pointOf = ({ unix_ms, digest: d }) => ({
  unix_ms, connections: d.connections, messages_in: d.messages_in_per_second, deliveries: d.deliveries_per_second, bytes_out: d.bytes_out_per_second,
  p50: d.publish_to_last_write.p50, p90: d.publish_to_last_write.p90, p99: d.publish_to_last_write.p99, count: d.publish_to_last_write.count,
  held_bytes: d.memory.held_bytes, resident_bytes: d.memory.resident_bytes,
});

function take(event, data) {
  if (event === 'past') {
    const last = store.past.at(-1)?.unix_ms ?? 0, more = JSON.parse(data).filter(point => point.unix_ms > last);
    store.past.push(...more);
    const end = store.past.at(-1)?.unix_ms ?? 0;
    while (store.past[0]?.unix_ms < end - PAST_MS) store.past.shift();
  } else if (event === 'now') {
    store.event = JSON.parse(data);
    store.heardAt = performance.now();
    // A clock that was set back would draw lines backwards.
    while (store.recent.length && store.recent.at(-1).unix_ms >= store.event.unix_ms) store.recent.pop();
    store.recent.push(pointOf(store.event));
    while (store.recent[0].unix_ms < store.event.unix_ms - FINE_MS) store.recent.shift();
  } else if (event === 'key') {
    const key = JSON.parse(data);
    Object.assign(session, { state: key.is_asked ? 'in' : 'none', name: key.name, scopes: key.is_asked ? key.scopes : null });
    tell('session');
  }
}

/** One life of the stream; returns when it ended in good order. */
async function follow(signal, isLive) {
  const since = store.past.at(-1)?.unix_ms ?? 0;
  const answer = await fetch(`api/v1/live?since=${since}`, { headers: headers({ accept: 'text/event-stream' }), cache: 'no-store', signal });
  if (!answer.ok) throw await problem(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
      const fields = Object.fromEntries(rest.slice(0, end).split('\n').map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]));
      if (fields.event) { take(fields.event, fields.data); isLive(); tell('figures'); }
    }
  }
}

/** The stream for as long as the page is there. `link` tells how it is. */
export const link = {
  /** `connecting`, `live`, `waiting`, `signed-out`, `forbidden`. */
  state: 'connecting', why: '', until: 0, life: null, failures: 0, timer: 0,

  set(state, why = '') { Object.assign(this, { state, why }); tell('link'); },

  async open() {
    clearTimeout(this.timer); this.life?.abort();
    const life = this.life = new AbortController();
    if (this.state !== 'live') this.set('connecting', this.why);
    const begun = performance.now();
    let wasLive = false;
    try {
      await follow(life.signal, () => {
        wasLive = true; this.failures = 0;
        if (this.state !== 'live') { this.set('live'); facts.load(); }
      });
      // In good order, and the next one at once; but none runs in circles.
      if (life === this.life) this.timer = setTimeout(() => this.open(), performance.now() - begun > 2000 ? 0 : 1000);
    } catch (error) {
      if (life !== this.life || error.name === 'AbortError') return;
      if (error.status === 401) { session.state = 'out'; this.set('signed-out', session.key ? `The key is not accepted: ${error.message}` : ''); return tell('session'); }
      if (error.status === 403) return this.set('forbidden', error.message);
      // A stream that was cut in the middle is found again at once, the first time.
      this.failures += 1;
      const wait = wasLive ? 200 : (error.waits ?? 0) * 1000 || Math.min(WAIT_MAX_MS, 500 * 2 ** this.failures) * (0.7 + 0.6 * Math.random());
      this.until = performance.now() + wait;
      if (!wasLive) this.set('waiting', error.status ? error.message : 'The server cannot be reached.');
      this.timer = setTimeout(() => this.open(), wait);
    }
  },

  stop() { this.life?.abort(); this.life = null; clearTimeout(this.timer); this.set('connecting'); },
  get age() { return store.heardAt ? performance.now() - store.heardAt : Infinity; },
};

/** Writes a list of facts: names and values; what is no figure or word is left out. */
export function facts(list, all) {
  const shown = Object.entries(all).filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value));
  const say = value => typeof value === 'number' ? num(value) : typeof value === 'boolean' ? (value ? 'yes' : 'no') : value;
  const words = name => { const text = name.replaceAll('_', ' '); return text[0].toUpperCase() + text.slice(1); };
  if (list.childElementCount !== shown.length) list.replaceChildren(...shown.map(() => h('div', {}, h('dt'), h('dd'))));
  shown.forEach(([name, value], at) => { const [dt, dd] = list.children[at].children; write(dt, words(name)); write(dd, say(value)); attribute(dd, 'dir', 'auto'); });
}
/** What the node says of itself, beside its figures; where it says nothing, nothing is shown. */
facts.load = async () => { try { store.node = await call('GET', 'node'); tell('figures'); } catch { /* shown without */ } };
