// The frame around all pages: where one is, how the link is, who one is, what it looks like.
import { ask, attribute, changes, clock, field, h, problem, seconds, session, tell, write } from './base.js';
import { link, STALE_MS, store } from './live.js';
import { Overview } from './overview.js';
import { Room, Rooms } from './rooms.js';
import { User, Users } from './users.js';

/** Where nothing is. */
class Nowhere {
  title = 'No such page';
  node = h('div', { class: 'grid' }, h('h1', { tabindex: '-1' }, 'There is no such page'),
    h('section', { class: 'card wide', 'aria-label': 'No such page' }, h('div', { class: 'empty' }, h('p', {}, 'The address names no page of this dashboard. '), h('p', {}, h('a', { href: '#/' }, 'Go to the overview')))));
}

const $ = id => document.getElementById(id);

// ---- Where one is.
let page = null, isFirst = true;
function decoded(text) { try { return decodeURIComponent(text); } catch { return text; } }
function pageOf(hash) {
  const [, kind = '', rest] = /^#?\/?([^/]*)(?:\/(.*))?$/s.exec(hash) ?? [];
  if (kind === 'rooms') return rest ? ['rooms', new Room(decoded(rest))] : ['rooms', new Rooms()];
  if (kind === 'users') return rest ? ['users', new User(decoded(rest))] : ['users', new Users()];
  return kind === '' ? ['overview', new Overview()] : [null, new Nowhere()];
}
function go() {
  page?.leave?.();
  const [kind, next] = pageOf(location.hash);
  page = next;
  for (const a of document.querySelectorAll('nav a')) attribute(a, 'aria-current', a.dataset.page === kind && 'page');
  $('main').replaceChildren(page.node);
  document.title = `${page.title} · Tidewheel`;
  // One is told where one has come to; a reload leaves the focus where it was.
  if (!isFirst) { scrollTo(0, 0); page.node.querySelector('h1')?.focus({ preventScroll: true }); }
  isFirst = false;
  page.update?.(store);
}
addEventListener('hashchange', go);
$('skip').onclick = event => { event.preventDefault(); $('main').focus(); };

// ---- How the link is.
const banner = (kind, ...children) => h('div', { class: `banner ${kind}` }, ...children);
const again = h('button', { class: 'btn small', type: 'button', onclick: () => link.open() }, 'Try now');
const stale = banner('bad', h('span', {}), again), draining = banner('warn', h('span', {}, 'This node is draining: clients are told to connect elsewhere, and new ones are refused.'));
const outside = banner('warn', h('span', {}, 'This node shows itself to those with an API key.'), h('button', { class: 'btn small', type: 'button', onclick: () => signIn() }, 'Sign in'));
const starting = banner('warn', h('span', {}, 'This node is starting.')), stuck = banner('warn', h('span', {}));

function paint() {
  const isIn = link.state !== 'signed-out' && link.state !== 'forbidden', isOld = link.age > STALE_MS;
  // A server that refuses or is gone makes figures stale at once, however young they are.
  const isLost = isOld || link.failures > 0 && link.state !== 'live';
  const state = !isIn ? 'out' : link.age === Infinity ? 'connecting' : isLost ? 'stale' : 'live', isTold = state === 'live';
  document.body.dataset.state = state;
  write($('state'), { out: link.state === 'forbidden' ? 'Not allowed' : 'Signed out', connecting: link.state === 'waiting' ? 'Not reached' : 'Connecting', stale: 'Stale', live: 'Live' }[state]);
  const wait = Math.ceil((link.until - performance.now()) / 1000), isWaiting = link.state === 'waiting' && wait > 0;
  if (state === 'stale' || isIn && link.state === 'waiting') {
    const old = store.event ? `Figures are those of ${clock(store.event.unix_ms)}, ${seconds(Math.round(link.age / 1000))} old. ` : '';
    write(stale.firstChild, `${old}${link.why || 'The server is silent.'}${isWaiting ? ` Trying again in ${wait} s.` : ''}`);
    if (!stale.isConnected) $('banners').prepend(stale);
  } else stale.remove();
  place(outside, !isIn);
  const phase = store.event?.node.phase;
  place(draining, phase === 'draining' && isTold); place(starting, phase === 'starting' && isTold);
  const silent = store.event?.digest.cores.filter(core => !core.is_up).map(core => core.core) ?? [];
  write(stuck.firstChild, `${silent.length > 1 ? `Cores ${silent.join(', ')} do` : `Core ${silent[0]} does`} not answer: their figures are the last they gave.`.replace(': their', silent.length > 1 ? ': their' : ': its').replace('they gave', silent.length > 1 ? 'they gave' : 'it gave'));
  place(stuck, silent.length > 0 && isTold);
}
function place(node, isThere) { if (isThere !== node.isConnected) { if (isThere) $('banners').append(node); else node.remove(); } }

changes.addEventListener('figures', () => { if (!document.hidden) { page?.update?.(store); paint(); } });
changes.addEventListener('link', () => { if (link.state === 'signed-out') signIn(link.why); if (link.state === 'forbidden') signIn(link.why); paint(); });
setInterval(paint, 1000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) { page?.update?.(store); paint(); if (link.age > STALE_MS && link.state !== 'signed-out') link.open(); } });
addEventListener('online', () => link.open());

// ---- Who one is. The key stays in this tab and goes with it.
let door = null;
function signIn(why) {
  if (door?.isConnected) return;
  const key = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
  door = ask({
    title: 'Sign in with an API key', label: 'Sign in',
    about: [h('p', {}, why || 'This node asks for a key of its --api-key-file. A key with the scope read shows figures; publish and admin also let you act.'), h('p', { class: 'hint' }, 'It is kept in this tab alone, until the tab is closed or you sign out.')],
    fields: [field('API key', key)],
    async run() {
      const typed = key.value.trim();
      if (!typed) throw new Error('Paste a key first.');
      // A key goes in a header: what cannot stand there is no key.
      if (!/^[\x21-\x7e]+$/.test(typed)) throw new Error('A key has letters, digits and signs, without spaces.');
      const was = session.key;
      session.key = typed;
      const answer = await fetch('api/v1/node', { headers: { authorization: `Bearer ${typed}` }, cache: 'no-store' }).catch(() => null);
      if (!answer || answer.status === 401 || answer.status === 403) {
        session.key = was;
        if (answer?.status === 403) throw await problem(answer);
        throw new Error(answer ? 'This key is not accepted.' : 'The server cannot be reached.');
      }
      session.state = 'in'; tell('session');
      link.open(); go();
      return 'Signed in.';
    },
  });
}
function signOut() {
  session.key = null; Object.assign(session, { state: 'out', name: null, scopes: null });
  Object.assign(store, { event: null, past: [], recent: [], node: null, heardAt: 0 });
  link.stop(); tell('session'); go(); link.open();
}
function paintKey() {
  const button = $('key'), isIn = session.state === 'in';
  button.hidden = session.state === 'none';
  const who = isIn ? `${session.name ?? 'Key'}${session.scopes ? ` · ${session.scopes.includes('admin') ? 'admin' : session.scopes.join(', ')}` : ''}` : '';
  write($('who'), who); attribute($('who'), 'title', who && `Signed in as ${who}`);
  write(button, isIn ? 'Sign out' : 'Sign in');
}
$('key').onclick = () => { if (session.state === 'in') signOut(); else signIn(); };
changes.addEventListener('session', paintKey);
changes.addEventListener('session', () => { if (session.state === 'out' && link.state === 'live') link.open(); });
paintKey();

// ---- What it looks like.
const THEMES = ['auto', 'light', 'dark'];
function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  $('theme').ariaLabel = $('theme').title = `Theme: ${wanted}`;
  try { localStorage.setItem('tidewheel.theme', wanted); } catch { /* for this time only */ }
}
$('theme').onclick = () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
let wanted = null;
try { wanted = localStorage.getItem('tidewheel.theme'); } catch { /* as the system has it */ }
theme(THEMES.includes(wanted) ? wanted : 'auto');

go();
link.open();
