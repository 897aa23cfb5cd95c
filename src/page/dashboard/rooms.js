// Rooms: the list, and one room with its members, its last messages, and a way to publish.
import { attribute, call, clock, field, h, name, num, plural, Problem, recipe, roomLink, Table, userLink, write } from './base.js';
import { keyLine, origin } from './overview.js';
import { sender } from './users.js';

const PAGE = 50, ROWS = 200, LOOK_MS = 1000, MEMBERS_MS = 3000;
const path = room => `rooms/${encodeURIComponent(room)}`;

const columns = [
  { id: 'room', label: 'Room', value: row => row.room, wide: true, node: get => roomLink(get().room) },
  { id: 'members', label: 'Members', number: true, value: row => row.members, text: row => num(row.members) },
  { id: 'connections', label: 'Connections', number: true, rare: true, value: row => row.connections, text: row => num(row.connections) },
  { id: 'offset', label: 'Offset', number: true, value: row => row.offset, text: row => num(row.offset) },
];

export class Rooms {
  title = 'Rooms';

  constructor() {
    this.all = []; this.next = null; this.isDone = false;
    this.search = h('input', { type: 'search', maxlength: '255', autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
    const form = h('form', { class: 'row find', role: 'search' }, field('Room name', this.search, 'Narrows the rooms below; Open goes to the room of exactly this name.'), h('button', { class: 'btn main', type: 'submit' }, 'Open'));
    form.addEventListener('submit', event => { event.preventDefault(); if (this.search.value) location.hash = `#/rooms/${encodeURIComponent(this.search.value)}`; });
    this.search.addEventListener('input', () => this.show());
    this.table = new Table({ caption: 'Rooms', sort: 'room', key: row => row.room, columns, empty: () => this.nothing() });
    this.table.down = false; this.table.mark();
    this.more = h('button', { class: 'btn', type: 'button', hidden: true, onclick: () => this.load() }, 'More rooms');
    this.fault = h('p', { class: 'fault', role: 'alert' }); this.count = h('span', { class: 'hint', role: 'status' });
    this.node = h('div', { class: 'grid' }, h('h1', { tabindex: '-1' }, 'Rooms'),
      h('section', { class: 'card wide', 'aria-label': 'Rooms' }, form, this.fault, this.table.node, h('div', { class: 'row' }, this.more, this.count)));
    this.load();
  }

  nothing() {
    return this.search.value
      ? recipe('No room loaded so far has this in its name. Open goes to the room of exactly this name.')
      : recipe('There are no rooms. A first message makes one:', `curl ${origin()}/api/v1/rooms/lobby/messages${keyLine()} \\\n  -H 'content-type: application/json' -d '{"payload":"hello"}'`);
  }

  async load() {
    this.more.disabled = true;
    try {
      const { rooms, next } = await call('GET', `rooms?limit=${PAGE}${this.next == null ? '' : `&after=${encodeURIComponent(this.next)}`}`);
      this.all.push(...rooms); this.next = next ?? null;
      write(this.fault, ''); this.isDone = next == null; this.isLoaded = true;
    } catch (error) { write(this.fault, error.message); }
    this.more.disabled = false;
    this.show();
  }

  show() {
    const wanted = this.search.value.toLowerCase(), found = this.all.filter(row => row.room.toLowerCase().includes(wanted));
    // Another note, where the old one says what does not hold any more.
    if (!found.length) { this.table.note?.remove(); this.table.note = null; }
    if (this.isLoaded) this.table.show(found);
    this.more.hidden = this.next == null;
    write(this.count, this.isLoaded && this.all.length ? `${wanted ? `${num(found.length)} of ` : ''}${plural(this.all.length, 'room')}${this.isDone ? '' : ' loaded'}` : '');
  }
}

export class Room {
  constructor(room) {
    this.room = room; this.title = room; this.offset = null; this.isFollowing = true;
    this.facts = h('p', { class: 'hint facts-line' });
    this.fault = h('p', { class: 'fault', role: 'alert' });
    this.list = h('ol', { class: 'messages', tabindex: '0', 'aria-label': 'Last messages, the newest first' });
    this.follow = h('button', { class: 'btn small', type: 'button', 'aria-pressed': 'true', onclick: () => {
      this.isFollowing = !this.isFollowing;
      attribute(this.follow, 'aria-pressed', String(this.isFollowing)); write(this.follow, this.isFollowing ? 'Following' : 'Paused');
      if (this.isFollowing) this.look();
    } }, 'Following');
    this.members = new Table({
      caption: 'Members', sort: 'user', key: row => row.user_id,
      columns: [
        { id: 'user', label: 'User', value: row => row.user_id, wide: true, node: get => userLink(get().user_id) },
        { id: 'connections', label: 'Connections', number: true, value: row => row.connections, text: row => num(row.connections) },
        { id: 'read', label: 'Read up to', number: true, value: row => row.read ?? 0, text: row => row.read ? `#${num(row.read)}` : '–' },
      ],
      empty: () => recipe('Nobody is in this room.'),
    });
    this.members.down = false; this.members.mark();
    this.memberCount = h('span', { class: 'hint' });
    const id = h('input', { maxlength: '64', autocomplete: 'off', spellcheck: 'false' });
    const publish = sender({
      label: 'Payload, as JSON', placeholder: '{"text": "hello"}', button: 'Publish', scope: 'publish',
      extra: [field('Message id (optional)', id, 'The same id again is answered, but not published twice.')],
      send: async json => {
        const body = `{"payload":${json}${id.value ? `,"message_id":${JSON.stringify(id.value)}` : ''}}`;
        const { offset, epoch } = await call('POST', `${path(room)}/messages`, body);
        this.look();
        return `Accepted as #${num(offset)} of epoch ${epoch}`;
      },
    });
    this.node = h('div', { class: 'grid' },
      h('div', { class: 'title' }, h('a', { href: '#/rooms', class: 'back' }, 'Rooms'), h('h1', { tabindex: '-1' }, name(room)), this.facts),
      h('section', { class: 'card main-column', 'aria-label': 'Messages' }, h('div', { class: 'head' }, h('h2', {}, 'Last messages'), this.follow), this.fault, this.list),
      h('div', { class: 'side-column' },
        h('section', { class: 'card', 'aria-label': 'Publish' }, h('div', { class: 'head' }, h('h2', {}, 'Publish')), publish),
        h('section', { class: 'card', 'aria-label': 'Members' }, h('div', { class: 'head' }, h('h2', {}, 'Members'), this.memberCount), this.members.node)));
    this.nothing();
    this.look(); this.lookAtMembers();
    this.timers = [setInterval(() => this.isFollowing && !this.isMissing && !document.hidden && this.look(), LOOK_MS), setInterval(() => !document.hidden && this.lookAtMembers(), MEMBERS_MS)];
  }

  leave() { this.isLeft = true; this.timers.forEach(clearInterval); }

  nothing() {
    this.list.replaceChildren(h('li', { class: 'none' }, recipe('Nothing was said here. Publish from this page, or:',
      `curl ${origin()}/api/v1/${path(this.room).replace(/'/g, '%27')}/messages${keyLine()} \\\n  -H 'content-type: application/json' -d '{"payload":"hello"}'`)));
  }

  /** What is new; a burst larger than a page is jumped over, and said. */
  async look() {
    if (this.isLooking) return;
    this.isLooking = true;
    try {
      const first = this.offset == null, told = await call('GET', `${path(this.room)}/messages?${first ? '' : `since=${this.offset}&`}limit=${PAGE}`);
      if (this.isLeft) return;
      if (this.epoch && told.epoch !== this.epoch) { this.list.prepend(h('li', { class: 'break' }, 'The room has started over.')); this.offset = null; this.epoch = told.epoch; this.isLooking = false; return this.look(); }
      this.epoch = told.epoch;
      let { messages } = told;
      if (!first && told.offset - this.offset > PAGE) {
        const newest = await call('GET', `${path(this.room)}/messages?limit=${PAGE}`);
        messages = newest.messages.filter(it => it.offset > this.offset);
        const left = (messages[0]?.offset ?? 0) - this.offset - 1;
        if (left > 0) this.list.prepend(h('li', { class: 'break' }, `${plural(left, 'message')} went by.`));
      }
      this.add(messages);
      this.isMissing = false;
      this.offset = Math.max(this.offset ?? 0, messages.at(-1)?.offset ?? told.offset);
      write(this.fault, '');
    } catch (error) {
      if (error instanceof Problem && error.status === 404) { write(this.fault, ''); this.isMissing = true; }
      else write(this.fault, error.message);
    } finally { this.isLooking = false; }
  }

  add(messages) {
    if (!messages.length) return;
    this.list.querySelector('.none')?.remove();
    const isAtTop = this.list.scrollTop < 24, height = this.list.scrollHeight;
    this.list.prepend(...messages.map(row).reverse());
    while (this.list.childElementCount > ROWS) this.list.lastChild.remove();
    // Who reads further down is left where they are.
    if (!isAtTop) this.list.scrollTop += this.list.scrollHeight - height;
  }

  async lookAtMembers() {
    const { room } = this;
    try {
      const [facts, crowd] = await Promise.all([call('GET', path(room)), call('GET', `${path(room)}/members`)]);
      write(this.facts, `${plural(facts.members, 'member')} · ${plural(facts.connections, 'connection')} · offset ${num(facts.offset)} · epoch ${facts.epoch}`);
      this.members.show(crowd.members);
      if (this.isMissing && this.isFollowing) this.look();
      write(this.memberCount, crowd.count > crowd.members.length ? `${num(crowd.members.length)} of ${num(crowd.count)} are listed` : num(crowd.count));
    } catch (error) {
      if (error.status === 404) { write(this.facts, 'There is no such room now. A first message makes it.'); this.members.show([]); write(this.memberCount, ''); }
    }
  }
}

const LONG = 600;
/** On one line where it fits. */
function json(payload) {
  const line = JSON.stringify(payload) ?? 'null';
  return line.length <= 72 ? line : JSON.stringify(payload, null, 2);
}
/** One message. Long ones are folded. */
function row(message) {
  const { offset, metadata = {}, payload } = message, plain = typeof payload === 'string';
  const text = plain ? payload : json(payload), user = metadata.user_id;
  const isLong = text.length > LONG || text.split('\n').length > 14;
  const body = h('pre', { class: plain ? 'plain' : '', dir: plain ? 'auto' : false }, isLong ? `${[...text.slice(0, LONG)].join('').split('\n').slice(0, 12).join('\n')} …` : text);
  const unfold = isLong && h('button', { class: 'btn small', type: 'button', onclick: () => { body.textContent = text; unfold.remove(); } }, `Show all, ${num(text.length)} characters`);
  return h('li', { 'data-offset': offset }, h('div', { class: 'meta' }, h('b', {}, `#${num(offset)}`), user ? userLink(user) : h('span', {}, 'backend'), metadata.timestamp && h('time', { title: metadata.timestamp }, clock(Date.parse(metadata.timestamp)))), body, unfold);
}
