// The operator's dashboard in Chromium, with real clients behind it. Screenshots go to target/screenshots.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, sleep, until, within } from '../harness.mjs';
import { PHONE, screenshot, tab } from './page.mjs';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const SMALL = { ...PHONE, viewport: { width: 360, height: 780 } };
// Rooms that are not there, keys that are not good, and servers that have gone are what is tested.
const EXPECTED = /Failed to load resource|net::ERR_/;
const HOSTILE = ['<img src=x onerror="document.title=1">', '"><script>document.title=2</script>', 'مرحبا بالعالم', '‮gnp.exe', '🚢🌊 crew', 'x'.repeat(255), "it's/a?room#&%41"];

/** A name as it is shown. */
const shown = name => name.replace('\u202e', '\\u202e');

async function dashboard(t, { at = t.server, hash = '#/', ...options } = {}) {
  const page = await tab(t, options, EXPECTED);
  await page.goto(`http://${at.admin}/${hash}`);
  return page;
}
const isLive = page => page.waitForSelector('body[data-state=live]');
const sees = (page, text, within = 'main') => page.locator(within, { hasText: text }).first().waitFor();
const tile = (page, figure) => page.locator(`[data-figure=${figure}] b`).textContent();
const card = (page, name) => page.getByRole('region', { name, exact: true });
const number = text => Number(text.replace(/[^\d.]/g, '')) * (text.includes('k') ? 1000 : 1);

/** People in a room, and somebody who speaks; one does not read. */
async function harbour(t, server, { members = 40, rate = 20 } = {}) {
  const room = 'harbour';
  const clients = await Promise.all(Array.from({ length: members }, (_, n) => t.connect({ to: server, user: `member-${n}` })));
  for (const client of clients) await client.join(room);
  const feed = await t.connect({ to: server, user: 'feed' });
  for (const [n, name] of ['harbour-north', 'price-feed/eur', ...HOSTILE].entries()) for (const client of clients.slice(0, 12 - n)) await client.join(name);
  let n = 0;
  const timer = setInterval(() => { for (let k = 0; k < rate / 10; k++) feed.send({ type: 'message', room, payload: { tick: ++n, bid: 100 + n / 7 } }); }, 100);
  t.open.push(() => clearInterval(timer));
  return { room, clients, feed };
}

/** Someone who does not read any more while there is more and more for them. */
async function stall(t, server, room, user = 'sleeper') {
  const sleeper = await t.connect({ to: server, user });
  await sleeper.join(room);
  sleeper.socket._socket.pause();
  return sleeper;
}

/** One event of a made-up node. */
function made(more = {}) {
  const quantiles = { count: 10, p50: 0.0002, p90: 0.0009, p99: 0.004, max: 0.01 };
  const core = n => ({ core: n, is_up: true, connections: 5, busy: 0.3, turns_per_second: 900, deliveries_per_second: 100, turn_p99: 0.0004 });
  const digest = {
    interval_seconds: 1, connections: 10, connections_by_state: { established: 10 }, connections_by_dialect: { native: 10 }, accepted_per_second: 0, rejected_per_second: 0, closed_per_second: 0,
    messages_in_per_second: 5, deliveries_per_second: 200, bytes_in_per_second: 900, bytes_out_per_second: 30_000, publish_to_last_write: quantiles, turns: quantiles, evicted: {}, frames_pending: 0, rooms: 1, members: 10,
    memory: { held: { connections: 100_000 }, held_bytes: 100_000, budget_bytes: 0, resident_bytes: 9e6, pressure: 0 }, cores: [core(0), core(1)], ...more.digest,
  };
  const account = { offered: 10, delivered: 10, skipped: 0, undelivered: 0, pending: 0 };
  return {
    unix_ms: Date.now(), node: { version: '0.1.0', phase: 'ready', uptime_seconds: 60, watchers: 1, ...more.node }, digest, ledger: { message: account }, bus_bytes: [0, 0], rooms: [], laggards: [], evictions: [],
    ...Object.fromEntries(Object.entries(more).filter(([name]) => name !== 'digest' && name !== 'node')),
  };
}
/** A page whose stream is made of thin air: an event for each time it asks. */
async function staged(t, make, options = {}) {
  const page = await tab(t, options, EXPECTED);
  await page.route('**/api/v1/live*', route => {
    const event = make();
    if (!event) return route.abort();
    return route.fulfill({ contentType: 'text/event-stream', body: `event: now\ndata: ${JSON.stringify(event)}\n\n` });
  });
  await page.goto(`http://${t.server.admin}/`);
  return page;
}

/** What a checker finds, as sentences. */
async function faults(page) {
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] }));
  return violations.flatMap(({ id, nodes }) => nodes.map(node => `${id}: ${node.target} ${node.any.map(it => it.message).join(' ')}`));
}
const overflow = page => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

/** A file with keys of all scopes. */
function keyFile(t) {
  const dir = mkdtempSync(join(tmpdir(), 'tidewheel-keys-')), path = join(dir, 'keys');
  t.open.push(() => rmSync(dir, { recursive: true }));
  writeFileSync(path, 'watcher read tw_watcher-watcher-watcher\nops admin tw_ops-ops-ops-ops-ops-ops\nfeed publish tw_feed-feed-feed-feed-feed\n', { mode: 0o600 });
  return path;
}

export default {
  async 'dashboard: an empty node says what to do, fits everywhere, and can be used by all'(t) {
    const server = await t.start();
    for (const [look, options] of Object.entries({ light: { colorScheme: 'light' }, dark: { colorScheme: 'dark' }, phone: { ...SMALL, colorScheme: 'light' }, 'phone-dark': { ...SMALL, colorScheme: 'dark' } })) {
      const page = await dashboard(t, { at: server, ...options });
      await isLive(page);
      await sees(page, 'A first message makes one');
      await sees(page, 'Everybody keeps up');
      await sees(page, 'Nobody was sent away');
      assert.equal(await tile(page, 'connections'), '0');
      assert.match(await page.locator('.recipe code').first().textContent(), new RegExp(`^curl http://${server.admin}/api/v1/rooms/lobby/messages`));
      assert(await overflow(page) <= 0, `${look} overflows`);
      assert.deepEqual(await faults(page), [], look);
      await screenshot(page, `dashboard-empty-${look}`, { fullPage: true });
    }
  },

  async 'dashboard: it shows what a busy node does, and the past to whoever comes later'(t) {
    const server = await t.start('--max-lag-age', '60s', '--max-lag-bytes', '4MiB', '--memory-budget', '512MiB');
    const { room } = await harbour(t, server, { rate: 100 });
    await stall(t, server, room);
    const page = await dashboard(t, { at: server });
    await isLive(page);
    await until(async () => number(await tile(page, 'deliveries')) > 1000, 'deliveries');
    assert.equal(await tile(page, 'connections'), '42');
    assert.match(await tile(page, 'latency'), /[µm]s$/);
    const rooms = card(page, 'Largest rooms').locator('tbody tr');
    await until(async () => (await rooms.count()) === 10, 'rooms');
    assert.equal(await rooms.first().locator('a').textContent(), room);
    assert.equal(await rooms.first().locator('td').nth(1).textContent(), '41');
    assert.match(await card(page, 'Delivery ledger').locator('.verdict').textContent(), /^Balanced/);
    assert.equal(await card(page, 'Cores').locator('.mark:not(:empty)').count(), 0);
    assert.deepEqual(await faults(page), []);
    // A second page knows what the first one saw.
    await sleep(11_000);
    const looks = { light: page, dark: await dashboard(t, { at: server, colorScheme: 'dark' }), phone: await dashboard(t, { at: server, ...SMALL }), 'phone-dark': await dashboard(t, { at: server, ...SMALL, colorScheme: 'dark' }) };
    for (const [look, page] of Object.entries(looks)) {
      await isLive(page);
      await until(async () => /^M.*L/.test(await page.locator('.plots .line.c3').getAttribute('d')), 'the past');
      await until(async () => (await rooms.count()) === 10, 'rooms');
      await sleep(1200);
      assert(await overflow(page) <= 0, `${look} overflows`);
      assert.deepEqual(await faults(page), [], look);
      await screenshot(page, `dashboard-busy-${look}`, { fullPage: true });
    }
    for (const figure of ['connections', 'messages', 'deliveries', 'bytes', 'memory', 'latency']) {
      await page.click(`[data-figure=${figure}]`);
      assert.match(await page.locator('svg.chart').getAttribute('aria-label'), /now .* between .* and /, figure);
    }
    await page.getByRole('button', { name: '2 min' }).click();
    await page.hover('svg.chart', { position: { x: 900, y: 90 } });
    await page.locator('.tip', { hasText: 'p99' }).waitFor();
    await screenshot(page, 'dashboard-hover');
  },

  async 'dashboard: a slow consumer is seen and kicked, and an eviction has its cause in words'(t) {
    const server = await t.start('--max-lag-age', '60s', '--close-timeout', '20s');
    const { room, feed } = await harbour(t, server, { members: 3 });
    let isFlood = true;
    const big = setInterval(() => { if (isFlood) feed.send({ type: 'message', room, payload: 'y'.repeat(20_000) }); }, 40);
    t.open.push(() => clearInterval(big));
    const page = await dashboard(t, { at: server });
    await isLive(page);
    const sleeper = await stall(t, server, room, 'sleeper');
    const line = card(page, 'Slowest consumers').locator('tr', { hasText: 'sleeper' });
    await line.waitFor();
    // Now there is time to look, before a bound is passed.
    isFlood = false;
    assert.match(await line.locator('td').nth(1).textContent(), /KiB|MiB/);
    await line.getByRole('button', { name: 'Kick sleeper' }).click();
    const dialog = page.getByRole('dialog', { name: 'Kick this user?' });
    await dialog.getByLabel('Reason').fill('too slow for us');
    await screenshot(page, 'dashboard-kick');
    await dialog.getByRole('button', { name: 'Kick' }).click();
    await sees(page, 'sleeper: 1 connection closed.', '#toasts');
    sleeper.socket._socket.resume();
    const end = await sleeper.closing();
    assert.deepEqual([end.code, end.reason], [4012, 'too slow for us']);
    await stall(t, server, room, 'dozer');
    isFlood = true;
    const gone = card(page, 'Recent evictions').locator('tr', { hasText: 'dozer' });
    await gone.waitFor();
    assert.match(await gone.textContent(), /Too slow: too much waiting4101/);
    await screenshot(page, 'dashboard-evicted', { fullPage: true });
  },

  async 'dashboard: a user is banned for a time and let in again, through dialogs that Escape leaves'(t) {
    const server = await t.start();
    const ann = await t.connect({ to: server, user: 'ann' });
    const page = await dashboard(t, { at: server, hash: '#/users/ann' });
    const ban = page.getByRole('button', { name: 'Ban', exact: true });
    await ban.click();
    await page.keyboard.press('Escape');
    assert.equal(await page.getByRole('dialog').count(), 0);
    assert(await ban.evaluate(button => button === document.activeElement), 'the focus is given back');
    assert.equal(ann.end, undefined);
    await ban.click();
    const dialog = page.getByRole('dialog', { name: 'Ban this user?' });
    assert.deepEqual(await faults(page), []);
    // The focus stays in the dialog, however often one goes on.
    for (let n = 0; n < 12; n++) {
      await page.keyboard.press('Tab');
      assert(await page.evaluate(() => document.activeElement === document.body || !!document.activeElement.closest('dialog')), `after ${n} tabs`);
    }
    await dialog.getByLabel('For how long').selectOption('5 minutes');
    await dialog.getByRole('button', { name: 'Ban' }).click();
    await sees(page, 'ann is banned. 1 connection closed.', '#toasts');
    assert.equal((await ann.closing()).code, 4009);
    await sees(page, 'Banned until');
    await page.getByRole('button', { name: 'Lift the ban' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Lift the ban' }).click();
    await sees(page, 'ann may come again.', '#toasts');
    await sees(page, 'Not banned');
    assert(await page.getByRole('button', { name: 'Lift the ban' }).isDisabled());
    await t.connect({ to: server, user: 'ann' });
    await screenshot(page, 'dashboard-user');
  },

  async 'dashboard: what is published from a room’s page reaches its clients, and what they say is followed'(t) {
    const room = t.room('dash');
    const bob = await t.connect({ user: 'bob' });
    await bob.join(room);
    const page = await dashboard(t, { hash: `#/rooms/${room}` });
    await sees(page, 'Nothing was said here');
    const box = page.getByLabel('Payload, as JSON');
    await box.fill('hello');
    await sees(page, 'This is not JSON', '.sender');
    await page.getByRole('button', { name: 'Make it text' }).click();
    assert.equal(await box.inputValue(), '"hello"');
    await box.fill('{"n": 12345678901234567890, "text": "from the page"}');
    await page.getByLabel('Message id').fill('once');
    for (let n = 0; n < 2; n++) {
      await page.keyboard.press('Tab');
      await page.getByRole('button', { name: 'Publish' }).click();
      await page.locator('.answer.good', { hasText: 'Accepted as #1 of epoch' }).waitFor();
    }
    const message = await bob.take('message');
    assert.match(message.raw, /"n": ?12345678901234567890/);
    assert.equal(message.metadata.user_id, undefined);
    await sees(page, '12345678901234567890', '.messages');
    await bob.publish(room, { text: 'from a client' });
    await sees(page, 'from a client', '.messages');
    bob.send({ type: 'read_receipt', room, payload: { offset: 2 } });
    await card(page, 'Members').locator('tr', { hasText: 'bob' }).getByText('#2').waitFor();
    assert.deepEqual((await bob.rest()).filter(frame => frame.type === 'message').map(frame => frame.offset), [2], 'the repeat was not published');
    assert.deepEqual(await faults(page), []);
    await screenshot(page, 'dashboard-room', { fullPage: true });
    await page.getByRole('button', { name: 'Following' }).click();
    await bob.publish(room, 'while paused');
    await sleep(1500);
    assert.equal(await page.locator('.messages', { hasText: 'while paused' }).count(), 0);
    const direct = await dashboard(t, { hash: '#/users/bob' });
    await direct.getByLabel('Message, as JSON').fill('{"text":"just you"}');
    await direct.keyboard.press('Control+Enter');
    await sees(direct, 'Sent to 1 connection');
    assert.deepEqual((await bob.take('direct_message')).payload.data, { text: 'just you' });
  },

  async 'dashboard: names and payloads of strangers are shown as text'(t) {
    const server = await t.start();
    for (const [n, name] of HOSTILE.entries()) {
      const client = await t.connect({ to: server, user: HOSTILE[(n + 1) % HOSTILE.length] });
      await client.join(name);
      for (const payload of [name, { [name]: [name] }]) await client.publish(name, payload);
    }
    for (const options of [{}, SMALL]) {
      const page = await dashboard(t, { at: server, ...options });
      const rooms = card(page, 'Largest rooms').locator('tbody a');
      await until(async () => (await rooms.count()) === HOSTILE.length, 'all rooms');
      assert.deepEqual((await rooms.allTextContents()).sort(), HOSTILE.map(shown).sort());
      for (const name of HOSTILE) {
        await page.goto(`http://${server.admin}/#/rooms`);
        await page.locator(`td a[href="#/rooms/${encodeURIComponent(name)}"]`).click();
        await page.locator('h1', { hasText: shown(name) }).waitFor();
        await until(async () => (await page.locator('.messages pre').count()) === 2, 'both messages');
        assert.equal(await page.locator('.messages pre').last().textContent(), name);
        const user = HOSTILE[(HOSTILE.indexOf(name) + 1) % HOSTILE.length];
        await card(page, 'Members').locator('a', { hasText: shown(user) }).click();
        await page.locator('h1', { hasText: shown(user) }).waitFor();
        await sees(page, '1 connection');
        await page.getByRole('button', { name: 'Kick' }).click();
        assert.equal(await page.getByRole('dialog').locator('.name').textContent(), shown(user));
        assert(await overflow(page) <= 0, `${name} overflows`);
        assert.equal(await page.title(), `${user} · Tidewheel`);
        await page.keyboard.press('Escape');
      }
      assert.equal(await page.locator('main img, main script, dialog img, #toasts img').count(), 0);
    }
  },

  async 'dashboard: a key opens it, goes in a header, and its scope says what can be done'(t) {
    const server = await t.start('--api-key-file', keyFile(t));
    const ann = await t.connect({ to: server, user: 'ann' });
    const page = await dashboard(t, { at: server });
    const urls = [];
    page.on('request', request => urls.push(request.url()));
    const dialog = page.getByRole('dialog', { name: 'Sign in with an API key' });
    await dialog.waitFor();
    await screenshot(page, 'dashboard-sign-in');
    await dialog.getByLabel('API key').fill('tw_wrong-wrong-wrong-wrong');
    await page.keyboard.press('Enter');
    await sees(page, 'This key is not accepted.', 'dialog');
    await dialog.getByLabel('API key').fill('tw_watcher-watcher-watcher');
    await page.keyboard.press('Enter');
    await isLive(page);
    await sees(page, 'watcher · read', '#who');
    await page.getByRole('button', { name: 'Sign out', exact: true }).waitFor();
    // What the scope does not allow says so, and does nothing.
    await page.goto(`http://${server.admin}/#/users/ann`);
    const kick = page.getByRole('button', { name: 'Kick' });
    await page.locator('button[aria-disabled=true]', { hasText: 'Kick' }).waitFor();
    await kick.click({ force: true });
    await sees(page, 'this needs a key with the scope admin', '#toasts');
    assert.equal(await page.getByRole('dialog').count(), 0);
    assert.equal(ann.end, undefined);
    // The key is kept for the tab, and nowhere else.
    await page.reload();
    await isLive(page);
    const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie, location.href].join());
    assert(!kept.includes('tw_') && !urls.some(url => url.includes('tw_')));
    await page.click('#key');
    await dialog.waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await dialog.getByLabel('API key').fill('tw_feed-feed-feed-feed-feed');
    await page.keyboard.press('Enter');
    await sees(page, 'has the scope publish, and this needs read', 'dialog');
    await page.getByRole('dialog').getByLabel('API key').fill('tw_ops-ops-ops-ops-ops-ops');
    await page.keyboard.press('Enter');
    await isLive(page);
    await page.getByRole('button', { name: 'Kick' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Kick' }).click();
    await sees(page, 'ann: 1 connection closed.', '#toasts');
    assert.equal((await ann.closing()).code, 4012);
  },

  async 'dashboard: everything can be reached without a mouse'(t) {
    await (await t.connect({ user: 'ann' })).join(t.room('dash'));
    const page = await dashboard(t);
    await isLive(page);
    await card(page, 'Largest rooms').locator('tbody a').first().waitFor();
    await page.bringToFront();
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    const reached = [];
    for (let n = 0; n < 60; n++) {
      await page.keyboard.press('Tab');
      const [name, ring] = await page.evaluate(() => { const e = document.activeElement; return [e === document.body ? '' : e.ariaLabel || e.textContent.trim(), getComputedStyle(e).outlineStyle]; });
      if (!name || reached.includes(name)) continue;
      assert.notEqual(ring, 'none', `${name} shows no focus`);
      reached.push(name);
    }
    const all = reached.join('\n');
    for (const wanted of ['Connections', 'Fan-out p99', '15 min', 'Fan-out latency', 'Members', 'Busy', 'Metrics']) assert(all.includes(wanted), `${wanted} is not reached: ${all}`);
    // Tables are sorted by their heads, charts read by arrows.
    const head = card(page, 'Cores').getByRole('columnheader', { name: 'Busy' });
    await head.getByRole('button').focus();
    await page.keyboard.press('Enter');
    assert.equal(await head.getAttribute('aria-sort'), 'descending');
    await page.keyboard.press('Enter');
    assert.equal(await head.getAttribute('aria-sort'), 'ascending');
    await page.locator('[data-figure=connections]').press('Enter');
    await page.getByRole('button', { name: '2 min' }).press('Enter');
    await until(async () => { await page.locator('svg.chart').press('ArrowLeft'); return /Open \d/.test(await page.locator('.chart-holder [aria-live]').textContent()); }, 'a value read');
    await page.goto(`http://${t.server.admin}/#/nonsense`);
    await sees(page, 'There is no such page');
    for (const [link, title] of [['Rooms', 'Rooms'], ['Users', 'Users'], ['Overview', 'Overview']]) {
      await page.getByRole('navigation').getByRole('link', { name: link }).press('Enter');
      await page.waitForFunction(title => document.title === `${title} · Tidewheel` && document.activeElement.tagName === 'H1', title);
    }
  },

  async 'dashboard: the theme is the system’s until one chooses, and stays chosen'(t) {
    const page = await dashboard(t, { colorScheme: 'dark' });
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await back();
    await page.getByRole('button', { name: 'Theme: auto' }).click();
    assert.notEqual(await back(), dark);
    await page.reload();
    assert.notEqual(await back(), dark);
    await page.getByRole('button', { name: 'Theme: light' }).click();
    assert.equal(await back(), dark);
  },

  async 'dashboard: a node that drains, cores that are stuck, and a server that has gone are told'(t) {
    let phase = 'ready', isThere = true;
    const core = made().digest.cores[0];
    const page = await staged(t, () => isThere && made({ node: { phase }, digest: { cores: [core, { ...core, core: 1, is_up: false, busy: 0 }] } }));
    await isLive(page);
    await sees(page, 'Core 1 does not answer: its figures are the last it gave.', '#banners');
    assert.equal(await card(page, 'Cores').locator('.mark:not(:empty)').textContent(), 'stuck');
    phase = 'draining';
    await sees(page, 'This node is draining', '#banners');
    assert.deepEqual(await faults(page), []);
    await screenshot(page, 'dashboard-draining');
    isThere = false;
    await page.waitForSelector('body[data-state=stale]', { timeout: 20_000 });
    await sees(page, 'The server cannot be reached. Trying again in', '#banners');
    assert.match(await page.locator('#state').textContent(), /Stale/);
    assert.equal(await page.locator('.banner').count(), 1, 'what the server said last holds no more');
    await screenshot(page, 'dashboard-stale');
    isThere = true; phase = 'ready';
    await page.getByRole('button', { name: 'Try now' }).click();
    await isLive(page);
    await until(async () => !(await page.locator('#banners').textContent()).includes('draining'), 'the banner to go');
  },

  async 'dashboard: a real drain is seen to its end'(t) {
    const server = await t.start('--drain-window', '6s');
    // Each leaves at a moment of its own: some of them late.
    const clients = await Promise.all(Array.from({ length: 30 }, () => t.connect({ to: server })));
    const page = await dashboard(t, { at: server });
    await isLive(page);
    server.child.kill('SIGTERM');
    await sees(page, 'This node is draining', '#banners');
    for (const client of clients) assert.equal((await client.closing()).code, 4200);
    assert.equal((await within(server.exited, 'the end', 15_000)).code, 0);
    await page.waitForSelector('body[data-state=stale]', { timeout: 15_000 });
  },

  async 'dashboard: the stream ends before the listener’s age limit, and goes on'(t) {
    const page = await dashboard(t);
    const asked = [];
    page.on('request', request => { if (request.url().includes('/live')) asked.push(request.url()); });
    await isLive(page);
    await until(async () => asked.length > 0, 'the next stream', 60_000);
    assert.match(asked[0], /since=[1-9]\d+$/, 'it does not ask for what it has');
    const stale = page.waitForSelector('body[data-state=stale]', { timeout: 3000 }).then(() => true, () => false);
    assert(!await stale, 'nobody notices');
  },
};
