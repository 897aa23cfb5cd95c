// The demo page in Chromium: what people see. Screenshots go to target/screenshots.
import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { assert, sleep, until } from '../harness.mjs';
import { PAGE, withHashes } from '../page_hashes.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const SCREENSHOTS = fileURLToPath(new URL('../../../../target/screenshots/', import.meta.url));
export const PHONE = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const PATIENCE_MS = 15_000;

let browser = null;
export async function close() { await (await browser)?.close(); }

/** A tab of a browser profile of its own. Errors in it fail the case, unless a cut explains them. */
export async function tab(t, options, isExpected = /WebSocket connection to/) {
  browser ??= chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  const context = await (await browser).newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const faults = [];
  page.on('pageerror', error => faults.push(String(error.stack ?? error)));
  page.on('console', line => { if (line.type() === 'error' && !isExpected.test(line.text())) faults.push(line.text()); });
  t.open.push(async () => { await context.close(); assert.deepEqual(faults, []); });
  return page;
}

async function enter(page, at, user, room) {
  await page.goto(`http://${at.listen}/`);
  await page.fill('#name', user);
  await page.fill('#where', room);
  await page.press('#where', 'Enter');
  await isLive(page);
  return page;
}

const isLive = page => page.waitForSelector('body[data-state=live]');
const sees = (page, text, within = '#list') => page.locator(within, { hasText: text }).first().waitFor();
const texts = page => page.locator('#list .text').allTextContents();
async function say(page, text) { await page.fill('#text', text); await page.press('#text', 'Enter'); }
export function screenshot(page, name, options) { mkdirSync(SCREENSHOTS, { recursive: true }); return page.screenshot({ path: `${SCREENSHOTS}${name}.png`, ...options }); }

/** The page with a server made of thin air: `serve` plays each connection. */
async function staged(t, serve) {
  const page = await tab(t);
  const connections = [];
  await page.routeWebSocket(/\/ws\?/, ws => {
    connections.push(Date.now());
    const tell = message => ws.send(JSON.stringify(message));
    tell({ type: 'connection_established', payload: { client_id: 'c', user_id: 'ann', server_time: '', protocol: 'tidewheel.v1.json', heartbeat_interval_ms: 1000, max_message_bytes: 65536 } });
    ws.onMessage(text => {
      const { type, metadata } = JSON.parse(text);
      if (type === 'join_room') tell({ type: 'room_joined', room: 'stage', payload: { offset: 0, epoch: 'e', recovered: false, members: 1 } });
      if (type === 'presence_query') tell({ type: 'room_members', room: 'stage', payload: { count: 1, members: [{ user_id: 'ann', connections: 1 }] }, metadata });
      if (type === 'ping') serve.ping?.(tell);
    });
    serve.connection?.({ ws, tell, number: connections.length });
  });
  await enter(page, t.server, 'ann', 'stage');
  return { page, connections };
}

export default {
  async 'the page is served as it is in the repository, small, and its policy fits'(t) {
    const html = readFileSync(PAGE, 'utf8');
    const answer = await fetch(t.server.page());
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get('content-type'), /^text\/html; *charset=utf-8/i);
    assert.equal(await answer.text(), html);
    assert.equal(withHashes(html), html, 'run page_hashes.mjs --write');
    assert(Buffer.byteLength(html) <= 40 * 1024, `${Buffer.byteLength(html)} bytes`);
    assert.deepEqual(html.match(/https?:\/\/[^'"\s]+/g), ['http://www.w3.org/2000/svg'], 'nothing from elsewhere');
    const head = await fetch(t.server.page(), { method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
  },

  async 'two people talk on the page, and see each other come, type and read'(t) {
    const room = t.room('page');
    const ann = await enter(await tab(t), t.server, 'Ann', room);
    await sees(ann, 'Still water', '#empty');
    const bob = await enter(await tab(t), t.server, 'Bob', room);
    await sees(ann, 'Bob joined');
    await sees(ann, 'Bob', '#people');
    await sees(bob, 'Ann', '#people');
    await sees(ann, '2 here', '#count');
    await bob.locator('#text').pressSequentially('Hello');
    await sees(ann, 'Bob is typing', '#typing');
    await bob.press('#text', 'Enter');
    await sees(ann, 'Hello');
    await until(async () => await ann.locator('#typing').textContent() === '', 'typing to end');
    await say(ann, 'Good morning');
    await sees(bob, 'Good morning');
    await sees(ann, 'Seen by Bob');
    assert.match(await ann.locator('#ack').textContent(), /^[\d.]+, [\d.]+ ms$/);
    assert.match(await ann.locator('#echo').textContent(), /^[\d.]+, [\d.]+ ms$/);
    await until(async () => /peak [1-9]/.test(await ann.locator('#peak').textContent()), 'the rate to show');
    await bob.close();
    await sees(ann, 'Bob left');
    await sees(ann, '1 here', '#count');
  },

  async 'a reload goes straight back in and shows the history'(t) {
    const room = t.room('page');
    const ann = await enter(await tab(t), t.server, 'Ann', room);
    for (const text of ['one', 'two', 'three']) await say(ann, text);
    await until(async () => (await texts(ann)).length === 3, 'three messages');
    await ann.reload();
    await isLive(ann);
    await until(async () => (await texts(ann)).length === 3, 'the history');
    assert.deepEqual(await texts(ann), ['one', 'two', 'three']);
    assert.equal(await ann.locator('.sys.new').count(), 0, 'nothing is new');
    // What was said while the page was away stands under a line of its own.
    const bob = await t.connect({ user: 'Bob' });
    await ann.goto('about:blank');
    await bob.publish(room, { text: 'four' });
    await ann.goBack();
    await sees(ann, 'New since you were last here');
    assert.equal(await ann.locator('.sys.new ~ .msg .text').textContent(), 'four');
  },

  async 'after a cut the page recovers what it missed, and what was written meanwhile arrives once'(t) {
    const room = t.room('page');
    const wire = await t.wire(t.server);
    const ann = await enter(await tab(t), wire, 'Ann', room);
    const bob = await t.connect({ user: 'Bob' });
    await bob.join(room);
    await say(ann, 'before');
    await sees(ann, 'before');
    wire.cut();
    await ann.waitForSelector('body[data-state=waiting]');
    for (let n = 1; n <= 7; n++) await bob.publish(room, { text: `missed ${n}` });
    await say(ann, 'written offline');
    await sees(ann, 'Waiting for the connection', '#queue');
    await sees(ann, 'Trying', '#banner');
    wire.heal();
    await sees(ann, 'Back online. Recovered 7 messages.');
    await until(async () => (await texts(ann)).includes('written offline'), 'the late message');
    assert.deepEqual(await texts(ann), ['before', ...[1, 2, 3, 4, 5, 6, 7].map(n => `missed ${n}`), 'written offline']);
    assert.equal(await ann.locator('#queue > *').count(), 0);
    assert.equal(await ann.locator('#n-ok').textContent(), '7');
    const said = (await bob.takeAll('message', 9)).map(m => m.payload.text);
    assert.deepEqual(said.filter(text => text === 'written offline').length, 1);
    assert.deepEqual((await bob.rest()).filter(frame => frame.type === 'message'), []);
  },

  async 'a message whose answer was lost with the connection is not sent twice'(t) {
    const room = t.room('page');
    const wire = await t.wire(t.server);
    const ann = await enter(await tab(t), wire, 'Ann', room);
    const bob = await t.connect({ user: 'Bob' });
    await bob.join(room);
    // The room has it; the cut comes before the page can know.
    for (let n = 0; n < 10; n++) {
      await say(ann, `m${n}`);
      wire.cut(); wire.heal();
      // Back at once rather than by the back-off, which grows from cut to cut.
      await ann.waitForFunction(n => { dispatchEvent(new Event('online')); return document.body.dataset.state === 'live' && document.getElementById('n-re').textContent === n; }, String(n + 1), { polling: 50 });
      await until(async () => (await texts(ann)).length === n + 1, `message ${n}`);
    }
    assert.deepEqual(await texts(ann), Array.from({ length: 10 }, (_, n) => `m${n}`));
    assert.equal((await bob.takeAll('message', 10)).length, 10);
    assert.deepEqual((await bob.rest()).filter(frame => frame.type === 'message'), []);
  },

  async 'a gap that cannot be recovered is told with its offsets'(t) {
    const server = await t.start('--history', '5');
    const wire = await t.wire(server);
    const room = t.room('page');
    const ann = await enter(await tab(t), wire, 'Ann', room);
    await say(ann, 'before');
    await sees(ann, 'before');
    const bob = await t.connect({ to: server });
    wire.cut();
    await ann.waitForSelector('body[data-state=waiting]');
    for (let n = 2; n <= 20; n++) await bob.publish(room, `m${n}`);
    wire.heal();
    await sees(ann, 'Missed 14 messages: 2–15.');
    await until(async () => (await texts(ann)).length === 6, 'what is still kept');
    assert.deepEqual(await texts(ann), ['before', 'm16', 'm17', 'm18', 'm19', 'm20']);
    assert.equal(await ann.locator('#n-miss').textContent(), '14');
    await ann.click('.sys.warn button');
    await sees(ann, 'no longer kept');
  },

  async 'a restarted server is found again, and the page says that the room started over'(t) {
    const room = t.room('page');
    const first = await t.start('--drain-window', '200ms');
    const wire = await t.wire(first);
    const ann = await enter(await tab(t), wire, 'Ann', room);
    await say(ann, 'before');
    await sees(ann, 'before');
    await first.stop();
    await ann.waitForSelector('body[data-state=waiting], body[data-state=connecting]');
    wire.heal(await t.start());
    await sees(ann, 'The room has started over');
    await say(ann, 'after');
    await until(async () => (await texts(ann)).includes('after'), 'the new message');
  },

  async 'what others write is shown as text'(t) {
    const room = t.room('page');
    const hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
    const ann = await enter(await tab(t), t.server, 'Ann', room);
    const bob = await t.connect({ user: hostile });
    await bob.join(room);
    bob.send({ type: 'typing_start', room });
    for (const payload of [hostile, { text: hostile }, { html: hostile }, [hostile], null, 7]) await bob.publish(room, payload);
    await until(async () => (await texts(ann)).length === 6, 'all of it');
    const shown = await texts(ann);
    assert.deepEqual([shown[0], shown[1], shown[4], shown[5]], [hostile, hostile, 'null', '7']);
    assert.equal(await ann.locator('main img, main script, aside img').count(), 0);
    assert.equal(await ann.title(), `${room} · Tidewheel`);
  },

  async 'a busy room keeps to 500 rows, and a reader who scrolled up is left in peace'(t) {
    const room = t.room('page');
    const ann = await enter(await tab(t), t.server, 'Ann', room);
    const bob = await t.connect({ user: 'Bob' });
    const burst = async (from, to) => { for (let n = from; n <= to; n++) bob.send({ type: 'message', room, payload: `m${n}` }); await bob.takeAll('message_sent', to - from + 1); };
    await burst(1, 1200);
    await sees(ann, 'm1200');
    assert.equal(await ann.locator('#list > li').count(), 500);
    await ann.locator('#log').hover();
    await ann.mouse.wheel(0, -3000);
    await sleep(200);
    await burst(1201, 1210);
    await sees(ann, '10 new messages', '#more');
    await ann.click('#more');
    await until(() => ann.locator('#log').evaluate(log => log.scrollHeight - log.scrollTop - log.clientHeight < 50), 'the end');
  },

  async 'earlier messages can be fetched'(t) {
    const room = t.room('page');
    const bob = await t.connect({ user: 'Bob' });
    for (let n = 1; n <= 90; n++) await bob.publish(room, `m${n}`);
    const ann = await enter(await tab(t), t.server, 'Ann', room);
    await until(async () => (await texts(ann)).length === 50, 'the newest fifty');
    await ann.click('#older');
    await until(async () => (await texts(ann)).length === 90, 'the rest');
    assert.deepEqual(await texts(ann), Array.from({ length: 90 }, (_, n) => `m${n + 1}`));
    assert(!await ann.locator('#older').isVisible());
  },

  async 'the page stays away after a final code, until it is told to come back'(t) {
    const { page, connections } = await staged(t, { connection: ({ ws, number }) => { if (number === 1) setTimeout(() => ws.close({ code: 4011, reason: 'replaced' }), 300); } });
    await page.waitForSelector('body[data-state=stopped]');
    await sees(page, 'Replaced by a newer connection of yours (4011)', '#banner');
    await sleep(2500);
    assert.equal(connections.length, 1);
    await page.click('#again');
    await isLive(page);
    assert.equal(connections.length, 2);
  },

  async 'the page waits as long as a draining server asks'(t) {
    let closedAt = 0;
    const { page, connections } = await staged(t, {
      connection({ ws, tell, number }) {
        if (number > 1) return;
        setTimeout(() => tell({ type: 'server_shutdown', payload: { reconnect_after_ms: 1800 } }), 200);
        setTimeout(() => { closedAt = Date.now(); ws.close({ code: 4200, reason: 'draining' }); }, 400);
      },
    });
    await sees(page, 'The server is restarting', '#banner');
    await until(() => connections.length === 2, 'the page to come back');
    assert(connections[1] - closedAt >= 1750 && connections[1] - closedAt < 4000, `${connections[1] - closedAt} ms`);
    await isLive(page);
  },

  async 'a dead link is noticed by its silence'(t) {
    const { page, connections } = await staged(t, { connection: () => {} });
    await sleep(3000);
    assert.equal(connections.length, 1, 'patience first');
    await until(() => connections.length >= 2, 'the page to give up on the silent connection', 20_000);
    await isLive(page);
    const answered = await staged(t, { ping: tell => tell({ type: 'pong' }) });
    await sleep(14_000);
    assert.equal(answered.connections.length, 1, 'an answered ping keeps it');
  },

  async 'everything can be reached and named without a mouse'(t) {
    const page = await tab(t);
    await page.goto(t.server.page());
    await page.keyboard.type('Ann');
    await page.keyboard.press('Tab');
    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.type(t.room('page'));
    await page.keyboard.press('Enter');
    await isLive(page);
    await page.keyboard.type('by keyboard alone');
    await page.keyboard.press('Enter');
    await sees(page, 'by keyboard alone');
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, textarea')]
      .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.outerHTML));
    assert.deepEqual(nameless, []);
    assert.equal(await page.locator('html').getAttribute('lang'), 'en');
  },

  async 'it fits a phone, and looks as it should in light and dark'(t) {
    const room = t.room('harbour');
    const looks = { light: { colorScheme: 'light' }, dark: { colorScheme: 'dark' }, phone: { ...PHONE, colorScheme: 'light' }, 'phone-dark': { ...PHONE, colorScheme: 'dark' } };
    const pages = {};
    for (const [look, options] of Object.entries(looks)) {
      const page = pages[look] = await tab(t, options);
      await page.goto(t.server.page());
      await screenshot(page, `welcome-${look}`);
      await enter(page, t.server, { light: 'Ada', dark: 'Grace', phone: 'Linus', 'phone-dark': 'Barbara' }[look], room);
      if (look === 'light') { await sees(page, 'Still water', '#empty'); await screenshot(page, 'empty-light'); }
    }
    await say(pages.light, 'Morning! Is the price feed running on the new server yet?');
    await sees(pages.phone, 'Morning!');
    await say(pages.phone, 'Since six. I pulled the plug on my laptop twice, and it told me exactly what I had missed.');
    await sees(pages.light, 'Since six.');
    await say(pages.dark, 'Same here: “Recovered 12 messages”.');
    const feed = await t.connect({ user: 'price-feed' });
    await feed.publish(room, { symbol: 'TIDE', bid: 101.25, ask: 101.31 });
    await pages.dark.locator('#text').pressSequentially('Looks good');
    await pages['phone-dark'].locator('#text').pressSequentially('Yes');
    for (const page of Object.values(pages)) await sees(page, 'TIDE');
    await sleep(1300);
    for (const [look, page] of Object.entries(pages)) await screenshot(page, `room-${look}`);
    await pages.phone.tap('#open');
    await sleep(400);
    await screenshot(pages.phone, 'details-phone');
    await pages.phone.tap('#shut');
    for (const [look, page] of Object.entries(pages)) {
      const [wide, high] = await page.evaluate(() => [document.documentElement.scrollWidth - innerWidth, document.documentElement.scrollHeight - innerHeight]);
      assert(wide <= 0 && high <= 0, `${look} overflows by ${wide} × ${high}`);
    }
    for (let n = 0; n < 300; n++) feed.send({ type: 'message', room, payload: { tick: n, bid: 100 + n / 7 } });
    await sees(pages.light, '"tick":299');
    await sleep(1100);
    for (const look of ['light', 'dark', 'phone']) await screenshot(pages[look], `busy-${look}`);
    await pages.light.setViewportSize({ width: 320, height: 600 });
    assert(await pages.light.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'fits 320 px');
  },
};
