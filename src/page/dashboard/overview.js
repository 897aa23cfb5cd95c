// The overview: what the node does now, and did in the last quarter of an hour.
import { ago, attribute, bytes, clock, h, num, percent, plural, recipe, roomLink, scoped, seconds, session, short, Table, userLink, write } from './base.js';
import { Chart, spark } from './chart.js';
import { facts } from './live.js';
import { kick } from './users.js';

const rate = n => `${short(n)}/s`, byteRate = n => `${bytes(n)}/s`;
const told = point => point.count > 0 || null;

/** What a tile and its chart show. `now` takes an event's digest, `of` a point. */
const FIGURES = [
  { id: 'connections', label: 'Connections', now: d => num(d.connections), note: states, format: short, least: 4,
    lines: [{ id: 'c1', label: 'Open', of: p => p.connections }] },
  { id: 'messages', label: 'Messages in', now: d => rate(d.messages_in_per_second), note: d => `${byteRate(d.bytes_in_per_second)} read`, format: rate, least: 4,
    lines: [{ id: 'c1', label: 'From clients', of: p => p.messages_in }] },
  { id: 'deliveries', label: 'Deliveries', now: d => rate(d.deliveries_per_second), note: d => `${plural(d.rooms, 'room')}, ${short(d.members)} ${d.members === 1 ? 'place' : 'places'}`, format: rate, least: 4,
    lines: [{ id: 'c1', label: 'To clients', of: p => p.deliveries }] },
  { id: 'bytes', label: 'Bytes out', now: d => byteRate(d.bytes_out_per_second), note: d => `${short(d.frames_pending)} frames waiting`, format: byteRate, isBytes: true, least: 1024,
    lines: [{ id: 'c1', label: 'Written', of: p => p.bytes_out }] },
  { id: 'latency', label: 'Fan-out p99', now: d => d.publish_to_last_write.count ? seconds(d.publish_to_last_write.p99) : '–', note: d => d.publish_to_last_write.count ? `p50 ${seconds(d.publish_to_last_write.p50)}` : 'no messages now', format: seconds, isLog: true, least: 1e-3,
    title: 'Fan-out latency', about: 'From a message’s acceptance by its room to the last write of it on a core.', nothing: 'No message was fanned out in this time.',
    lines: [{ id: 'c1', label: 'p50', of: p => told(p) && p.p50 }, { id: 'c2', label: 'p90', of: p => told(p) && p.p90 }, { id: 'c3', label: 'p99', of: p => told(p) && p.p99 }] },
  { id: 'memory', label: 'Memory', now: d => bytes(d.memory.resident_bytes || d.memory.held_bytes), note: budget, format: bytes, isBytes: true, least: 1 << 20,
    lines: [{ id: 'c1', label: 'Counted', of: p => p.held_bytes }, { id: 'c2', label: 'Resident', of: p => p.resident_bytes || null }] },
];
const RANGES = [{ ms: 900_000, label: '15 min' }, { ms: 120_000, label: '2 min' }];

function states(d) {
  const others = Object.entries(d.connections_by_state).filter(([state, n]) => state !== 'established' && n);
  return others.length ? others.map(([state, n]) => `${num(n)} ${state === 'unauthenticated' ? 'without a user' : state}`).join(', ') : d.connections ? 'all established' : 'nobody is here';
}
function budget(d) {
  return d.memory.budget_bytes ? `${percent(d.memory.held_bytes / d.memory.budget_bytes)} of budget` : `${bytes(d.memory.held_bytes)} counted`;
}

/** Why somebody was sent away, in words. */
const CAUSES = {
  1002: 'Broke the WebSocket protocol', 1009: 'Sent a message that is too big',
  4001: 'Did not say who it is in time', 4002: 'Credentials not accepted', 4004: 'Sent more than its rate allows', 4006: 'Sent too many invalid messages', 4009: 'User banned',
  4011: 'Replaced by a newer connection', 4012: 'Disconnected by an operator', 4100: 'No memory or place left',
  4101: 'Too slow: too much waiting', 4102: 'Too slow: waiting too long', 4103: 'No sign of life', 4105: 'Reached its lifetime', 4106: 'Token expired', 4200: 'Node is draining',
};
const causeOf = it => CAUSES[it.code] ?? (it.cause ? it.cause[0].toUpperCase() + it.cause.slice(1) : 'Closed');

const card = (class_, title, ...children) => h('section', { class: `card ${class_}`, 'aria-label': title }, ...children);
const head = (title, ...more) => h('div', { class: 'head' }, h('h2', {}, title), ...more);
export const origin = () => location.href.split('#')[0].replace(/\/$/, '');
export const keyLine = () => session.scopes ? ' \\\n  -H "Authorization: Bearer $TIDEWHEEL_KEY"' : '';

/** A bar with a figure beside it; one of a bound changes its colour as it nears it. */
function bar(isBounded) {
  const fill = h('i'), text = h('span');
  return { node: h('div', { class: 'bar' }, h('div', { class: 'track' }, fill), text), show(share, words) { fill.style.width = `${Math.min(100, Math.max(0, share * 100))}%`; attribute(fill, 'class', isBounded && (share > 0.9 ? 'hot' : share > 0.7 && 'warm')); write(text, words ?? percent(share)); } };
}

export class Overview {
  title = 'Overview';

  constructor() {
    this.figure = FIGURES.find(figure => figure.id === 'latency'); this.range = RANGES[0];
    this.tiles = FIGURES.map(figure => this.tile(figure));
    this.chart = new Chart({ title: 'Fan-out latency' });
    this.node = h('div', { class: 'grid' },
      h('h1', { class: 'sr', tabindex: '-1' }, 'Overview'),
      h('div', { class: 'tiles', role: 'group', 'aria-label': 'Figures now; each chooses what the chart shows' }, this.tiles.map(tile => tile.node)),
      this.chartCard(), this.roomsCard(), this.laggardsCard(), this.coresCard(), this.memoryCard(), this.evictionsCard(), this.ledgerCard(), this.nodeCard(), this.partsCard());
    this.choose(this.figure);
  }

  tile(figure) {
    const line = spark(), value = h('b'), note = h('small');
    const node = h('button', { class: 'tile', type: 'button', 'data-figure': figure.id, onclick: () => this.choose(figure) }, h('span', { class: 'label' }, figure.label), value, note, line.node);
    return { node, figure, show(digest, points) { write(value, figure.now(digest)); write(note, figure.note(digest)); line.show(points.map(figure.lines.at(-1).of)); }, line };
  }

  choose(figure) {
    this.figure = figure;
    for (const tile of this.tiles) attribute(tile.node, 'aria-pressed', String(tile.figure === figure));
    this.chart.title = figure.title ?? figure.label;
    write(this.chartTitle, this.chart.title); write(this.chartAbout, figure.about ?? '');
    this.drawChart();
  }

  chartCard() {
    this.chartTitle = h('h2'); this.chartAbout = h('p', { class: 'hint' });
    const ranges = h('div', { class: 'segments', role: 'group', 'aria-label': 'Time shown' }, RANGES.map(range => h('button', { type: 'button', 'aria-pressed': String(range === this.range), onclick: event => {
      this.range = range;
      for (const button of ranges.children) attribute(button, 'aria-pressed', String(button === event.currentTarget));
      this.drawChart();
    } }, range.label)));
    return card('wide', 'Chart', h('div', { class: 'head' }, this.chartTitle, ranges), this.chartAbout, this.chart.node);
  }

  drawChart() {
    const { store, figure, range } = this;
    if (!store) return;
    const to = store.event?.unix_ms ?? Date.now(), uptime = store.event?.node.uptime_seconds ?? Infinity;
    // What a young node has not lived through takes no place.
    const from = to - Math.min(range.ms, Math.max(120_000, uptime * 1000));
    const points = (range.ms > 200_000 ? store.coarse() : store.fine()).filter(point => point.unix_ms >= from && point.unix_ms <= to);
    const lines = figure.lines.map(it => ({ ...it }));
    this.chart.show(points, { ...figure, id: figure.id, lines, from, to });
  }

  roomsCard() {
    this.rooms = new Table({
      caption: 'Largest rooms', sort: 'members', key: row => row.room,
      columns: [
        { id: 'room', label: 'Room', value: row => row.room, wide: true, node: get => roomLink(get().room) },
        { id: 'members', label: 'Members', number: true, value: row => row.members, text: row => num(row.members) },
        { id: 'connections', label: 'Conns', number: true, rare: true, value: row => row.connections, text: row => num(row.connections) },
        { id: 'offset', label: 'Offset', number: true, value: row => row.offset, text: row => num(row.offset) },
      ],
      empty: () => recipe('No room has members or history. A first message makes one:', `curl ${origin()}/api/v1/rooms/lobby/messages${keyLine()} \\\n  -H 'content-type: application/json' -d '{"payload":"hello"}'`),
    });
    return card('half', 'Largest rooms', head('Largest rooms', h('a', { href: '#/rooms', class: 'more' }, 'All rooms')), this.rooms.node);
  }

  laggardsCard() {
    this.laggards = new Table({
      caption: 'Slowest consumers', sort: 'lag', key: row => `${row.core}/${row.client_id}`,
      columns: [
        { id: 'user', label: 'User', value: row => row.user_id, wide: true, node: get => userLink(get().user_id) },
        { id: 'lag', label: 'Waiting', number: true, value: row => row.lag_bytes, text: row => bytes(row.lag_bytes) },
        { id: 'age', label: 'For', number: true, value: row => row.lag_ms, text: row => seconds(row.lag_ms / 1000) },
        { id: 'rooms', label: 'Rooms', number: true, rare: true, value: row => row.rooms, text: row => num(row.rooms) },
        { id: 'core', label: 'Core', number: true, rare: true, value: row => row.core, text: row => String(row.core) },
        { id: 'do', about: 'Actions', number: true, node: get => scoped('admin', h('button', { class: 'btn small', type: 'button', 'aria-label': `Kick ${get().user_id}`, onclick: () => kick(get().user_id) }, 'Kick')) },
      ],
      empty: () => recipe('Everybody keeps up: no connection has anything waiting.'),
    });
    return card('half', 'Slowest consumers', head('Slowest consumers'), this.laggards.node);
  }

  coresCard() {
    const busy = (get, update) => { const it = bar(true); update(row => it.show(row.is_up ? row.busy : 0, row.is_up ? percent(row.busy) : '–')); return it.node; };
    this.cores = new Table({
      caption: 'Cores side by side', sort: 'core', key: row => row.core,
      columns: [
        { id: 'core', label: 'Core', value: row => row.core, node: (get, update) => {
          const mark = h('span', { class: 'mark' });
          update(row => { write(mark, row.is_up ? '' : 'stuck'); attribute(mark, 'title', row.is_up ? null : 'It did not answer within a second: its figures are the last it gave.'); });
          return h('span', { class: 'core' }, String(get().core), mark);
        } },
        { id: 'connections', label: 'Connections', value: row => row.connections, number: true, text: row => num(row.connections) },
        { id: 'busy', label: 'Busy', value: row => row.busy, number: true, node: busy },
        { id: 'turns', label: 'Turns/s', number: true, rare: true, value: row => row.turns_per_second, text: row => row.is_up ? short(row.turns_per_second) : '–' },
        { id: 'p99', label: 'Turn p99', number: true, rare: true, value: row => row.turn_p99, text: row => row.is_up && row.turn_p99 ? seconds(row.turn_p99) : '–' },
        { id: 'deliveries', label: 'Deliveries', number: true, rare: true, value: row => row.deliveries_per_second, text: row => row.is_up ? rate(row.deliveries_per_second) : '–' },
        { id: 'bus', label: 'Bus', number: true, value: row => row.bus, text: row => bytes(row.bus) },
      ],
      empty: () => recipe('No core has answered so far.'),
    });
    this.cores.down = false; this.cores.mark();
    return card('half', 'Cores', head('Cores', h('span', { class: 'hint' }, 'Bus: bytes that wait for a core')), this.cores.node);
  }

  memoryCard() {
    this.budget = bar(true); this.budgetWords = h('p', { class: 'hint' }); this.kinds = new Map();
    this.kindList = h('dl', { class: 'kinds' });
    this.pressure = h('span', { class: 'mark', hidden: true });
    return card('half', 'Memory', head('Memory', this.pressure), h('div', { class: 'budget' }, this.budget.node), this.budgetWords, this.kindList);
  }

  evictionsCard() {
    this.evictions = new Table({
      caption: 'Recent evictions', sort: 'when', key: row => `${row.core}/${row.client_id}/${row.unix_ms}`,
      columns: [
        { id: 'when', label: 'When', value: row => row.unix_ms, node: (get, update) => { const time = h('time'); update(row => { write(time, clock(row.unix_ms)); time.title = ago(row.unix_ms); }); return time; } },
        { id: 'user', label: 'User', value: row => row.user_id, wide: true, node: get => userLink(get().user_id) },
        { id: 'cause', label: 'Cause', value: row => row.code, wide: true, node: get => h('span', { class: 'cause' }, causeOf(get())) },
        { id: 'code', label: 'Code', number: true, rare: true, value: row => row.code, text: row => String(row.code) },
        { id: 'lag', label: 'Waiting', number: true, rare: true, value: row => row.lag_bytes, text: row => bytes(row.lag_bytes) },
      ],
      empty: () => recipe('Nobody was sent away for being slow, dead or too much.'),
    });
    return card('half', 'Recent evictions', head('Recent evictions'), this.evictions.node);
  }

  ledgerCard() {
    this.verdict = h('p', { class: 'verdict' });
    const cell = id => ({ id, label: id[0].toUpperCase() + id.slice(1), number: true, value: row => row[id], text: row => short(row[id]) });
    this.ledger = new Table({
      caption: 'Delivery ledger', sort: 'kind', key: row => row.kind,
      columns: [{ id: 'kind', label: 'Frames', value: row => row.place, text: row => row.label }, cell('offered'), cell('delivered'), { ...cell('skipped'), rare: true }, { ...cell('undelivered'), rare: true }, { ...cell('pending'), label: 'Waiting' }],
      empty: () => recipe('No frame was offered so far.'),
    });
    this.ledger.down = false; this.ledger.mark();
    return card('half', 'Delivery ledger', head('Delivery ledger'), this.verdict, this.ledger.node);
  }

  nodeCard() {
    this.facts = h('dl', { class: 'facts' });
    return card('wide', 'Node', head('Node', h('a', { href: 'metrics', class: 'more' }, 'Metrics')), this.facts);
  }

  /** Parts that only some nodes have: the store, the webhook. */
  partsCard() {
    this.parts = h('div', { class: 'parts' }); this.lasts = new Map();
    return this.parts;
  }

  update(store) {
    this.store = store;
    const { event } = store;
    this.drawChart();
    if (!event) return;
    const { digest } = event;
    for (const tile of this.tiles) tile.show(digest, store.past);
    this.rooms.show(event.rooms.slice(0, 10));
    this.laggards.show(event.laggards.slice(0, 10));
    this.cores.show(digest.cores.map(core => ({ ...core, bus: event.bus_bytes[core.core] ?? 0 })));
    this.evictions.show(event.evictions.slice(0, 20));
    this.showMemory(digest.memory); this.showLedger(event.ledger); this.showNode(event, store.node); this.showParts(event.parts ?? {});
  }

  showMemory(memory) {
    const { held_bytes: held, budget_bytes: limit, resident_bytes: resident } = memory;
    const top = limit || Math.max(held, resident, 1);
    this.budget.show(held / top, limit ? percent(held / limit) : bytes(held));
    write(this.budgetWords, `${bytes(held)} counted${limit ? ` of a budget of ${bytes(limit)}` : '; no budget is set (--memory-budget)'}${resident ? `; the process holds ${bytes(resident)}` : ''}.`);
    this.pressure.hidden = !memory.pressure;
    write(this.pressure, `pressure ${memory.pressure} of 4`);
    const most = Math.max(1, ...Object.values(memory.held));
    for (const [kind, n] of Object.entries(memory.held).sort((a, b) => b[1] - a[1])) {
      let line = this.kinds.get(kind);
      if (!line) {
        line = { bar: bar() };
        line.node = h('div', {}, h('dt', {}, kind[0].toUpperCase() + kind.slice(1)), h('dd', {}, line.bar.node));
        this.kinds.set(kind, line); this.kindList.append(line.node);
      }
      line.bar.show(n / most * 0.69, bytes(n));
      line.node.hidden = !n; line.node.style.order = -Math.round(Math.log2(n + 1));
    }
  }

  showLedger(ledger) {
    const labels = { message: 'Room messages', direct: 'Direct, broadcast', reply: 'Replies', signal: 'Signals' };
    const rows = Object.keys(labels).filter(kind => ledger[kind]).map((kind, place) => ({ kind, place, label: labels[kind], ...ledger[kind] }));
    const sum = id => rows.reduce((all, row) => all + row[id], 0), isSound = rows.every(row => row.pending >= 0);
    write(this.verdict, isSound ? `Balanced: of ${num(sum('offered'))} frames offered, ${num(sum('pending'))} wait, and each other ended in exactly one way.` : 'Out of balance: more frames ended than were offered. Please report this.');
    attribute(this.verdict, 'class', `verdict ${isSound ? 'good' : 'bad'}`);
    this.ledger.show(rows);
  }

  showNode({ node }, more) {
    const told = more ?? {}, kept = { off: 'in memory', async: 'on disk, soon after', fsync: 'on disk, before the answer' };
    facts(this.facts, {
      Version: node.version, State: { ready: 'ready for clients', starting: 'starting', draining: 'draining: clients go elsewhere' }[node.phase] ?? node.phase, Uptime: seconds(node.uptime_seconds), Started: told.started_at && new Date(told.started_at).toLocaleString(),
      'Clients connect to': told.listen?.join(', '), 'API and dashboard': told.admin_listen, 'Epoch of this run': told.epoch, 'Connections at most': told.connections_max,
      'History is kept': kept[told.durability] ?? told.durability, 'Dashboards open': node.watchers,
    });
  }

  /** How many a second, of a count: from one event to the next. */
  eachSecond(part, figures) {
    const { unix_ms: now } = this.store.event, last = this.lasts.get(part);
    if (last?.now !== now) this.lasts.set(part, { now, figures, before: last && { now: last.now, figures: last.figures } });
    const { before } = this.lasts.get(part);
    return metric => before && now > before.now ? Math.max(0, figures[metric] - before.figures[metric]) / (now - before.now) * 1000 : undefined;
  }

  showParts(parts) {
    for (const [part, figures] of Object.entries(parts)) {
      let list = this.parts.querySelector(`[data-part="${CSS.escape(part)}"] dl`);
      if (!list) {
        list = h('dl', { class: 'facts' });
        const title = PARTS[part]?.title ?? part;
        this.parts.append(h('section', { class: 'card', 'data-part': part, 'aria-label': title }, head(title, h('span', { class: 'mark' })), list));
      }
      write(this.parts.querySelector(`[data-part="${CSS.escape(part)}"] .mark`), figures.failing > 0 ? 'failing' : '');
      facts(list, toldOf(part, figures, this.eachSecond(part, figures)));
    }
    for (const node of this.parts.children) node.hidden = !parts[node.dataset.part];
  }
}

// ---- Parts: figures named as metrics are, told in words, what matters most first.
const PARTS = {
  store: {
    title: 'Store', known: {
      'Rooms kept': f => num(f.rooms), 'Messages and keys on disk': f => num(f.messages), 'Size on disk': f => bytes(f.disk_bytes),
      'Waiting for the disk': f => f.queue_records ? `${plural(f.queue_records, 'record')}, ${bytes(f.queue_bytes)}` : 'nothing',
      'Commits/s': (f, each) => short(each('commits_total')), 'Records/s': (f, each) => short(each('records_total')), 'Written since the start': f => bytes(f.record_bytes_total),
      'Time of a commit, mean': f => mean(f, 'commit_seconds'), 'Failed commits': f => num(f.commit_failures_total), 'Messages refused': f => num(f.refused_messages_total), 'Records lost': f => num(f.lost_records_total),
    },
    reads: ['commits_total', 'records_total', 'record_bytes_total', 'commit_failures_total', 'refused_messages_total', 'lost_records_total', 'queue_records', 'queue_bytes', 'disk_bytes', 'rooms', 'messages', 'failing', 'commit_seconds'],
  },
  hooks: {
    title: 'Webhook', known: {
      'Events delivered': f => num(sum(f, 'events_total')), 'Events dropped': f => counted(f, 'events_dropped_total'),
      'Waiting for the backend': f => f.queue_events ? `${plural(f.queue_events, 'event')}, ${bytes(f.queue_bytes)}` : 'nothing',
      'Held back for their opposite': f => num(f.waiting), 'Cancelled by their opposite': f => num(f.coalesced_total), 'Requests delivered': f => num(f.batches_total),
      'Time of a delivery, mean': f => mean(f, 'delivery_seconds'), 'Failed requests': f => counted(f, 'failures_total'), 'Repeated requests': f => num(f.retries_total),
    },
    reads: ['events_total', 'coalesced_total', 'batches_total', 'retries_total', 'failures_total', 'events_dropped_total', 'waiting', 'queue_events', 'queue_bytes', 'failing', 'delivery_seconds'],
  },
  auth_webhook: {
    title: 'Authentication webhook', known: {
      'Questions': f => counted(f, 'questions_total'), 'Asked now': f => num(f.in_flight), 'Connections that wait': f => num(f.waiting), 'Not asked, since it failed too often': f => f.circuit_open ? 'yes' : 'no',
    },
    reads: ['questions_total', 'in_flight', 'waiting', 'circuit_open'],
  },
};
const idOf = metric => metric.replace(/\{.*/s, '').replace(/_seconds_(sum|count)$/, '_seconds');

const sum = (figures, id) => Object.entries(figures).reduce((all, [metric, n]) => all + (idOf(metric) === id ? n : 0), 0);

/** The sum of a metric over its labels, and its largest parts. */
function counted(figures, id) {
  const of = Object.entries(figures).filter(([metric, n]) => idOf(metric) === id && n > 0).sort((a, b) => b[1] - a[1]);
  const words = of.slice(0, 3).map(([metric, n]) => `${/="([^"]*)"/.exec(metric)?.[1].replaceAll('_', ' ') ?? 'all'} ${num(n)}`);
  return `${num(sum(figures, id))}${words.length && of[0][0] !== id ? ` (${words.join(', ')}${of.length > 3 ? ', …' : ''})` : ''}`;
}
/** What something took, from the sum of all times and their number. */
function mean(figures, id) {
  const count = figures[`${id}_count`];
  return count ? seconds(figures[`${id}_sum`] / count) : '–';
}

/** All figures of a part by their labels. `each(metric)` tells how many a second. */
function toldOf(part, figures, each) {
  const { known = {}, reads = [] } = PARTS[part] ?? {}, isFailing = figures.failing > 0;
  const told = Object.entries(known).map(([label, of]) => [label, of(figures, each)]);
  if (isFailing) told.unshift(['Failing', 'yes']); else if ('failing' in figures) told.push(['Failing', 'no']);
  // What is new and has no words yet.
  for (const [metric, value] of Object.entries(figures)) if (!reads.includes(idOf(metric))) told.push([metric.replace(/[^a-z0-9]+/gi, ' ').trim(), num(value)]);
  return Object.fromEntries(told);
}
