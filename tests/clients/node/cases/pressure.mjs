// Clients that do not read, or do not answer.
import { assert, runs, until } from '../harness.mjs';

const PADDING = 'x'.repeat(32_000);
const MESSAGES_MAX = 3000; // some 100 MB: more than any socket's buffers

/**
 * Publishes large messages, a window at a time, no faster than the healthy reader takes them, until
 * `isEnough`. Gives how many there were.
 */
async function flood(publisher, healthy, room, isEnough) {
  let sent = 0;
  while (sent < MESSAGES_MAX && !await isEnough()) {
    const window = Array.from({ length: 32 }, () => publisher.publish(room, { n: ++sent, PADDING }));
    await Promise.all(window);
    await until(() => healthy.offsets.length === sent, `the healthy reader to have all ${sent}`);
  }
  assert(sent < MESSAGES_MAX, `nothing happened to the slow reader in ${sent} messages`);
  return sent;
}

/** A sleeping reader, a healthy one and a publisher in one room. A window of the flood is 1 MiB, which
 * the healthy one may be behind at any moment. */
async function room(t, { bytes = '2MiB', age = '60s', overflow = 'evict' } = {}) {
  const server = await t.start('--close-timeout', '20s', '--max-lag-bytes', bytes, '--max-lag-age', age, '--overflow', overflow);
  const name = t.room();
  const [slow, healthy, publisher] = await Promise.all(['slow', 'healthy', 'publisher'].map(user => t.connect({ to: server, user })));
  await slow.join(name);
  await healthy.join(name, { presence: true });
  healthy.offsets = [];
  const { push } = Array.prototype;
  // Memory: only the offsets of what the healthy one gets are kept.
  healthy.inbox.push = function keep(frame) { return frame.type === 'message' ? healthy.offsets.push(frame.offset) : push.call(this, frame); };
  return { server, name, slow, healthy, publisher };
}

const all = count => Array.from({ length: count }, (_, n) => n + 1);

export default {
  async 'a reader too many bytes behind is closed with 4101, and the others go on'(t) {
    const { server, name, slow, healthy, publisher } = await room(t);
    slow.socket.pause();
    const isGone = () => healthy.inbox.some(frame => frame.type === 'presence_update' && frame.payload.event === 'leave');
    let sent = await flood(publisher, healthy, name, isGone);
    slow.socket.resume();
    assert.equal((await slow.closing(30_000)).code, 4101);
    const got = slow.inbox.map(frame => frame.offset);
    assert.deepEqual(got, all(got.length), 'what it had got is without a gap');
    await publisher.publish(name, 'after'); sent++;
    await until(() => healthy.offsets.length === sent, `the healthy reader to have all ${sent}`);
    assert.deepEqual(healthy.offsets, all(sent));
    assert(await server.metric('tidewheel_ledger_frames_total{kind="message",outcome="undelivered",code="4101"}') > 0);
  },

  async 'a reader too long behind is closed with 4102'(t) {
    const { name, slow, healthy, publisher } = await room(t, { bytes: '1GiB', age: '1s' });
    slow.socket.pause();
    const isGone = () => healthy.inbox.some(frame => frame.type === 'presence_update' && frame.payload.event === 'leave');
    for (let n = 0; n < 20; n++) await Promise.all(Array.from({ length: 32 }, () => publisher.publish(name, PADDING)));
    await until(isGone, 'the sleeper to be closed');
    slow.socket.resume();
    assert.equal((await slow.closing(30_000)).code, 4102);
  },

  async 'under --overflow skip, messages_missed explains every gap exactly'(t) {
    const { server, name, slow, healthy, publisher } = await room(t, { overflow: 'skip' });
    await explained(server, name, slow, healthy, publisher);
  },

  async 'under --overflow latest, too, and the newest message is kept'(t) {
    const { server, name, slow, healthy, publisher } = await room(t, { overflow: 'latest' });
    const last = await explained(server, name, slow, healthy, publisher);
    assert(last.lastBeforeMarker, 'the newest message of the flood arrived');
  },

  async 'a peer that answers no ping is closed with 4103, one that sends anything is not'(t) {
    const server = await t.start('--heartbeat-interval', '1s', '--heartbeat-timeout', '1s', '--close-timeout', '10s');
    const silent = await t.connect({ to: server, autoPong: false });
    const talking = await t.connect({ to: server, autoPong: false });
    const polite = await t.connect({ to: server });
    let pings = 0;
    polite.socket.on('ping', () => { pings++; });
    const talk = setInterval(() => talking.send({ type: 'ping' }), 200);
    try {
      assert.equal((await silent.closing()).code, 4103);
      await until(() => pings >= 3, 'three pings');
      for (const client of [talking, polite]) assert.equal((await client.ask({ type: 'ping' })).type, 'pong');
    } finally { clearInterval(talk); }
  },
};

/** Floods a sleeping reader until offsets were skipped, wakes it, and checks its account. */
async function explained(server, name, slow, healthy, publisher) {
  slow.socket.pause();
  const skipped = async () => await server.metric('tidewheel_skipped_offsets_total') > 0;
  let sent = await flood(publisher, healthy, name, skipped);
  slow.socket.resume();
  await publisher.publish(name, 'marker'); sent++;
  await slow.take(frame => frame.type === 'message' && frame.payload === 'marker', 30_000);
  let next = 1, missed = 0, messages = 1;
  for (const frame of slow.inbox) {
    if (frame.type === 'messages_missed') {
      const { from, to } = frame.payload;
      assert.equal(frame.room, name);
      assert.equal(from, next, 'a gap begins where the last message ended');
      assert(to >= from);
      missed += to - from + 1; next = to + 1;
    } else if (frame.type === 'message') {
      assert.equal(frame.offset, next, `message ${frame.offset} came where ${next} was due`);
      messages++; next++;
    }
  }
  assert.equal(next, sent, 'the marker follows on');
  assert(missed > 0);
  assert.equal(missed + messages, sent);
  assert.equal(await server.metric('tidewheel_skipped_offsets_total'), missed);
  await until(() => healthy.offsets.length === sent, 'the healthy reader to have all');
  assert.equal(runs(healthy.offsets), `1–${sent}`);
  const at = slow.inbox.findLastIndex(frame => frame.type === 'messages_missed');
  return { lastBeforeMarker: slow.inbox.slice(at).some(frame => frame.type === 'message') };
}
