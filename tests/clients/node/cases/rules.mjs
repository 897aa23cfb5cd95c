// Rooms by rule: a file of rules, and what clients see of them.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from '../harness.mjs';

const RULES = `
room-names = "explicit"
history = 3
max-lag-bytes = "2MiB"
max-lag-age = "60s"

[[rooms]]
pattern = "chat:*"
history = 5
publish = "members"
max-message-bytes = "1KiB"
max-members = 2

[[rooms]]
pattern = "news:**"
publish = "server"
presence = false

[[rooms]]
pattern = "ticker:*"
overflow = "latest"
presence = false
typing = false

[[rooms]]
pattern = "lobby"
ephemeral = true

[[rooms]]
pattern = "plain"
`;

/** A server with these rules. */
async function start(t, rules = RULES) {
  const folder = mkdtempSync(join(tmpdir(), 'tidewheel-rules-'));
  t.open.push(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'tidewheel.toml');
  writeFileSync(file, rules);
  return t.start('--config', file, '--close-timeout', '20s');
}

export default {
  async 'a room that no rule names is error 4007, also in the path'(t) {
    const to = await start(t);
    const ann = await t.connect({ to, user: 'ann' });
    for (const type of ['join_room', 'message', 'history_query', 'presence_query', 'typing_start']) {
      const { room } = await ann.refusal({ type, room: 'nowhere', payload: {} }, 4007);
      assert.equal(room, 'nowhere');
    }
    assert.equal((await ann.ask({ type: 'leave_room', room: 'nowhere' })).type, 'room_left');
    const bob = await t.connect({ to, path: '/ws/chat%3A1%3A2', user: 'bob' });
    const refused = await bob.take('error');
    assert.deepEqual([refused.room, refused.payload.code], ['chat:1:2', 4007]);
    await bob.join('chat:1');
  },

  async 'a full room is error 4008 for users, not for their connections, and has room again'(t) {
    const to = await start(t);
    const [ann, ann2, bob, cy] = await Promise.all(['ann', 'ann', 'bob', 'cy'].map(user => t.connect({ to, user })));
    await ann.join('chat:full');
    await bob.join('chat:full');
    assert.equal((await ann2.join('chat:full')).members, 2);
    for (let n = 0; n < 100; n++) await cy.refusal({ type: 'join_room', room: 'chat:full' }, 4008);
    await ann.publish('chat:full', 'not for cy');
    await ann.ask({ type: 'leave_room', room: 'chat:full' });
    await cy.refusal({ type: 'join_room', room: 'chat:full' }, 4008);
    await ann2.ask({ type: 'leave_room', room: 'chat:full' });
    assert.equal((await cy.join('chat:full')).members, 2);
    assert.deepEqual((await cy.rest()).map(frame => frame.type), []);
  },

  async 'a payload above the rule is error 4005, and the connection stays'(t) {
    const to = await start(t);
    const ann = await t.connect({ to, user: 'ann' });
    await ann.join('chat:size');
    await ann.refusal({ type: 'message', room: 'chat:size', payload: 'x'.repeat(1023) }, 4005);
    await ann.publish('chat:size', 'x'.repeat(1022));
    await ann.join('plain');
    await ann.publish('plain', 'x'.repeat(5000));
  },

  async 'what a rule does not permit is error 4010'(t) {
    const to = await start(t);
    const ann = await t.connect({ to, user: 'ann' });
    const denied = message => ann.refusal(message, 4010);
    await denied({ type: 'message', room: 'chat:1', payload: 'I am no member' });
    await ann.join('chat:1');
    await ann.publish('chat:1', 'I am one');
    await denied({ type: 'message', room: 'news:a:b', payload: 1 });
    await denied({ type: 'join_room', room: 'news:a:b', payload: { presence: true } });
    await denied({ type: 'presence_query', room: 'news:a:b' });
    await ann.join('news:a:b');
    await ann.join('ticker:1');
    await denied({ type: 'typing_start', room: 'ticker:1' });
  },

  async 'each room keeps as much history as its rule says, and an ephemeral one nothing'(t) {
    const to = await start(t);
    const ann = await t.connect({ to, user: 'ann' });
    for (const room of ['chat:h', 'plain', 'lobby']) {
      await ann.join(room);
      for (let n = 0; n < 8; n++) await ann.publish(room, n, { echo: false, message_id: room === 'lobby' ? 'same' : `${n}` });
    }
    const kept = async room => (await ann.ask({ type: 'history_query', room, payload: {} })).payload.messages.length;
    assert.deepEqual([await kept('chat:h'), await kept('plain'), await kept('lobby')], [5, 3, 0]);
    const before = await ann.join('lobby');
    assert.equal(before.offset, 8, 'the key of a publish is not remembered');
    await ann.ask({ type: 'leave_room', room: 'lobby' });
    const after = await ann.join('lobby', { recover: { epoch: before.epoch, offset: before.offset } });
    assert.deepEqual([after.offset, after.recovered], [0, false]);
    assert.notEqual(after.epoch, before.epoch);
  },

  async 'a slow reader of a ticker jumps to its newest, of another room it goes'(t) {
    const to = await start(t);
    const [slow, fast] = await Promise.all(['slow', 'fast'].map(user => t.connect({ to, user })));
    await slow.join('ticker:1');
    slow.socket.pause();
    const payload = 'x'.repeat(32_000);
    const flood = async (room, isEnough) => {
      for (let n = 0; n < 100 && !await isEnough(); n++) await Promise.all(Array.from({ length: 32 }, () => fast.publish(room, payload)));
      assert(await isEnough());
    };
    await flood('ticker:1', async () => await to.metric('tidewheel_skipped_offsets_total') > 0);
    slow.socket.resume();
    const { from, to: last } = (await slow.take('messages_missed')).payload;
    assert(last >= from);
    await slow.take(frame => frame.type === 'message' && frame.offset === last + 1);
    await slow.join('plain');
    slow.socket.pause();
    await flood('plain', async () => await to.metric('tidewheel_evictions_total') > 0);
    slow.socket.resume();
    assert.equal((await slow.closing(30_000)).code, 4101);
  },
};
