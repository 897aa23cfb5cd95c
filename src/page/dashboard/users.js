// Users: where to find one, and what can be done about one.
import { ask, attribute, call, field, h, name, parse, plural, recipe, scoped, write } from './base.js';
import { store } from './live.js';

const path = user => `users/${encodeURIComponent(user)}`;
const reached = answer => answer.connections === undefined ? 'Done.' : `${plural(answer.connections, 'connection')} closed.`;
const sentence = (...parts) => h('p', {}, ...parts);

/** A day and a time, here. */
function moment(rfc3339) {
  const date = new Date(rfc3339);
  return Number.isNaN(date.getTime()) ? rfc3339 : date.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}

/** Asks, then closes all connections of a user. */
export function kick(user) {
  const reason = h('input', { maxlength: '123', placeholder: 'disconnected by the server’s API', autocomplete: 'off' });
  ask({
    title: 'Kick this user?', label: 'Kick', danger: true,
    about: sentence('All connections of ', name(user), ' are closed with code 4012. Well-behaved clients do not come back by themselves, but they may.'),
    fields: [field('Reason (optional)', reason, 'The client sees it in the close frame.')],
    run: async () => {
      const body = reason.value ? { reason: reason.value } : {};
      return `${user}: ${reached(await call('POST', `${path(user)}/disconnect`, JSON.stringify(body)))}`;
    },
  });
}

const TTLS = [[300, '5 minutes'], [3600, '1 hour'], [86_400, '1 day'], [604_800, '1 week']];
/** `done` is called when the ban stands. */
export function ban(user, done) {
  // Only a store takes a ban over a restart.
  const longest = store.event?.parts?.store ? 'Until it is lifted' : 'Until it is lifted or the node ends';
  const lasts = h('select', {}, [...TTLS, ['', longest]].map(([ttl, label]) => h('option', { value: String(ttl), selected: ttl === 3600 }, label)));
  ask({
    title: 'Ban this user?', label: 'Ban', danger: true,
    about: sentence('All connections of ', name(user), ' are closed with code 4009, and new ones are refused for as long as the ban lasts.'),
    fields: [field('For how long', lasts)],
    run: async () => {
      const body = lasts.value ? { ttl_s: Number(lasts.value) } : {};
      const answer = await call('PUT', `${path(user)}/ban`, JSON.stringify(body));
      done?.();
      return `${user} is banned. ${reached(answer)}`;
    },
  });
}

export function unban(user, done) {
  ask({
    title: 'Lift the ban?', label: 'Lift the ban',
    about: sentence(name(user), ' may connect again at once.'),
    run: async () => { await call('DELETE', `${path(user)}/ban`); done?.(); return `${user} may come again.`; },
  });
}

/** JSON from a text box: the text itself, so that no number changes on its way; or why not. */
export function jsonOf(text) {
  if (!text.trim()) return { fault: 'Write some JSON: an object, a list, or text in quotes.' };
  try { parse(text); } catch (error) { return { fault: `This is not JSON: ${error.message}. Text stands in quotes: ${JSON.stringify(text.slice(0, 40))}` }; }
  return { json: text };
}

/** A box for JSON, checked while one writes. `send(json)` gives the line to show. */
export function sender({ label, placeholder, button, scope, extra = [], send }) {
  const box = h('textarea', { rows: '4', spellcheck: 'false', placeholder });
  const fault = h('p', { class: 'fault', role: 'alert' }), answer = h('p', { class: 'answer', role: 'status' });
  const asText = h('button', { class: 'btn small', type: 'button', hidden: true, onclick: () => { box.value = JSON.stringify(box.value); check(); box.focus(); } }, 'Make it text');
  const go = scoped(scope, h('button', { class: 'btn main', type: 'submit' }, button));
  const check = () => {
    const found = jsonOf(box.value), isWrong = !!box.value.trim() && !!found.fault;
    fault.textContent = isWrong ? found.fault : ''; asText.hidden = !isWrong;
    box.toggleAttribute('aria-invalid', isWrong);
    return found;
  };
  const form = h('form', { class: 'sender', novalidate: true }, field(label, box), ...extra, fault, h('div', { class: 'row' }, go, asText, h('span', { class: 'hint keys' }, 'Ctrl + Enter')), answer);
  box.addEventListener('input', check);
  box.addEventListener('keydown', event => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); go.click(); } });
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const found = check();
    if (found.fault) { fault.textContent = found.fault; return box.focus(); }
    go.disabled = true; answer.className = 'answer'; answer.textContent = '';
    const begun = performance.now();
    try {
      answer.textContent = `${await send(found.json)} (${Math.max(1, Math.round(performance.now() - begun))} ms)`;
      answer.classList.add('good');
    } catch (error) {
      fault.textContent = error.message;
    }
    go.disabled = false;
  });
  return form;
}

/** The page where one names a user. */
export class Users {
  title = 'Users';
  constructor() {
    const input = h('input', { id: 'user-name', maxlength: '255', autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
    const form = h('form', { class: 'row find' }, field('User name', input), h('button', { class: 'btn main', type: 'submit' }, 'Open'));
    form.addEventListener('submit', event => { event.preventDefault(); if (input.value) location.hash = `#/users/${encodeURIComponent(input.value)}`; });
    this.node = h('div', { class: 'grid' }, h('h1', { tabindex: '-1' }, 'Users'),
      h('section', { class: 'card wide', 'aria-label': 'Find a user' }, form, recipe('Users also have links in a room’s list of members, among the slowest consumers, and in recent evictions.')));
  }
}

export class User {
  constructor(user) {
    this.user = user; this.title = user;
    this.count = h('p', { class: 'hint', role: 'status' });
    const act = (label, class_, does) => scoped('admin', h('button', { class: `btn ${class_}`, type: 'button', onclick: () => does(user, () => this.look()) }, label));
    const direct = sender({
      label: 'Message, as JSON', placeholder: '{"text": "hello"}', button: 'Send', scope: 'publish',
      send: async json => `Sent to ${plural((await call('POST', `${path(user)}/messages`, `{"payload":${json}}`)).connections, 'connection')}`,
    });
    this.banned = h('p', { class: 'verdict', role: 'status' }); this.lift = act('Lift the ban', '', unban); this.lift.disabled = true;
    this.node = h('div', { class: 'grid' },
      h('div', { class: 'title' }, h('a', { href: '#/users', class: 'back' }, 'Users'), h('h1', { tabindex: '-1' }, name(user)), this.count),
      h('section', { class: 'card half', 'aria-label': 'Direct message' }, h('div', { class: 'head' }, h('h2', {}, 'Direct message')), h('p', { class: 'hint' }, 'Every connection of the user gets it as direct_message.'), direct),
      h('section', { class: 'card half', 'aria-label': 'Connections' }, h('div', { class: 'head' }, h('h2', {}, 'Connections')), h('p', { class: 'hint' }, 'A kick closes all connections of the user; a ban also keeps new ones out.'), this.banned,
        h('div', { class: 'row' }, act('Kick', 'danger', kick), act('Ban', 'danger', ban), this.lift)));
    this.look();
    this.timer = setInterval(() => { if (!document.hidden) this.look(); }, 3000);
  }

  /** How many connections the user has, and whether there is a ban. */
  async look() {
    try {
      const { connections, banned, banned_until: until } = await call('GET', path(this.user));
      write(this.count, connections ? plural(connections, 'connection') : 'Not connected');
      write(this.banned, banned ? until ? `Banned until ${moment(until)}` : 'Banned until it is lifted' : 'Not banned');
      attribute(this.banned, 'class', `verdict ${banned ? 'bad' : ''}`);
      this.lift.disabled = !banned;
    } catch (error) {
      this.count.textContent = error.status === 401 || error.status === 403 ? '' : `Connections unknown: ${error.message}`;
    }
  }

  leave() { clearInterval(this.timer); }
}
