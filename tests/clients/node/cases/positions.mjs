// Where a client stands in a room: history, recovery, and publishing once.
import { assert } from '../harness.mjs';

const offsets = frames => frames.map(frame => frame.offset);
const upTo = (n, from = 1) => Array.from({ length: n - from + 1 }, (_, i) => from + i);

async function filled(t, count, { to = t.server, room = t.room() } = {}) {
  const publisher = await t.connect({ to, user: 'publisher' });
  for (let n = 1; n <= count; n++) await publisher.publish(room, `m${n}`);
  return { publisher, room };
}

export default {
  async 'history on join is the newest n, oldest first, before anything live'(t) {
    const { publisher, room } = await filled(t, 5);
    const ann = await t.connect();
    const joined = await ann.join(room, { history: 3 });
    assert.deepEqual([joined.offset, joined.recovered], [5, false]);
    await publisher.publish(room, 'live');
    const frames = await ann.takeAll('message', 4);
    assert.deepEqual(offsets(frames), [3, 4, 5, 6]);
    assert.equal(frames[0].metadata.user_id, 'publisher');
    const bob = await t.connect();
    await bob.join(room);
    assert.deepEqual(await bob.rest(), [], 'none unless asked for');
  },

  async 'a history query takes since and limit, and says when something is gone'(t) {
    const server = await t.start('--history', '10');
    const { publisher, room } = await filled(t, 25, { to: server });
    const ask = async payload => (await publisher.ask({ type: 'history_query', room, payload })).payload;
    const { epoch } = await publisher.join(room);
    for (const [query, expected, complete] of [
      [undefined, upTo(25, 16), true],
      [{ limit: 3 }, [23, 24, 25], true],
      [{ since: 20 }, upTo(25, 21), true],
      [{ since: 20, limit: 2 }, [21, 22], true],
      [{ since: 15 }, upTo(25, 16), true],
      [{ since: 14 }, upTo(25, 16), false],
      [{ since: 0, limit: 4 }, [16, 17, 18, 19], false],
      [{ since: 25 }, [], true],
    ]) {
      const answer = await ask(query), label = JSON.stringify(query);
      assert.deepEqual(offsets(answer.messages), expected, label);
      assert.deepEqual([answer.offset, answer.epoch], [25, epoch], label);
      if (query?.since !== undefined) assert.equal(answer.complete, complete, label);
    }
    const [newest] = (await ask({ limit: 1 })).messages;
    assert.deepEqual([newest.type, newest.room, newest.payload, newest.metadata.user_id], ['message', room, 'm25', 'publisher']);
    const empty = (await publisher.ask({ type: 'history_query', room: t.room() })).payload;
    assert.deepEqual([empty.messages, empty.offset, empty.complete], [[], 0, true]);
  },

  async 'after a cut, recovery gives exactly what was missed, then goes on live'(t) {
    const { publisher, room } = await filled(t, 3);
    const before = await t.connect({ user: 'ann' });
    const { epoch, offset } = await before.join(room);
    await publisher.publish(room, 'seen');
    assert.equal((await before.take('message')).offset, offset + 1);
    before.socket.terminate();
    await before.closed;
    for (let n = 0; n < 20; n++) await publisher.publish(room, `missed ${n}`);
    const after = await t.connect({ user: 'ann' });
    const joined = await after.join(room, { recover: { epoch, offset: offset + 1 }, history: 2 });
    assert.deepEqual([joined.recovered, joined.epoch, joined.offset], [true, epoch, 24]);
    await publisher.publish(room, 'live');
    const frames = await after.takeAll('message', 21);
    assert.deepEqual(offsets(frames), upTo(25, 5));
    assert.deepEqual(frames.map(m => m.payload), [...upTo(19, 0).map(n => `missed ${n}`), 'live']);
    assert.deepEqual(await after.rest(), []);
  },

  async 'recovery from the newest position, and from the beginning, is complete too'(t) {
    const { publisher, room } = await filled(t, 4);
    const { epoch } = await publisher.join(room);
    const [ann, bob] = [await t.connect(), await t.connect()];
    assert.equal((await ann.join(room, { recover: { epoch, offset: 4 } })).recovered, true);
    assert.deepEqual(await ann.rest(), []);
    assert.equal((await bob.join(room, { recover: { epoch, offset: 0 } })).recovered, true);
    assert.deepEqual(offsets(await bob.takeAll('message', 4)), [1, 2, 3, 4]);
  },

  async 'recovery holds one’s own echo: false messages too'(t) {
    const { publisher, room } = await filled(t, 1);
    const { epoch } = await publisher.join(room);
    await publisher.publish(room, 'quiet', { echo: false });
    publisher.socket.terminate();
    const again = await t.connect({ user: 'publisher' });
    assert.equal((await again.join(room, { recover: { epoch, offset: 1 } })).recovered, true);
    assert.equal((await again.take('message')).payload, 'quiet');
  },

  async 'recovery is refused for another epoch, too old a position and one of the future'(t) {
    const server = await t.start('--history', '10');
    const { publisher, room } = await filled(t, 25, { to: server });
    const { epoch } = await publisher.join(room);
    for (const recover of [{ epoch: 'another', offset: 24 }, { epoch: '0000000000000', offset: 24 }, { epoch, offset: 14 }, { epoch, offset: 26 }]) {
      const ann = await t.connect({ to: server });
      const label = JSON.stringify(recover);
      assert.equal((await ann.join(room, { recover, history: 2 })).recovered, false, label);
      assert.deepEqual(offsets(await ann.takeAll('message', 2)), [24, 25], label);
      assert.deepEqual(await ann.rest(), [], label);
      const bob = await t.connect({ to: server });
      await bob.join(room, { recover });
      assert.deepEqual(await bob.rest(), [], `${label} without history`);
    }
    const edge = await t.connect({ to: server });
    assert.equal((await edge.join(room, { recover: { epoch, offset: 15 } })).recovered, true);
    assert.deepEqual(offsets(await edge.takeAll('message', 10)), upTo(25, 16));
  },

  async 'a restarted server has new epochs, and says so'(t) {
    const first = await t.start();
    const { room, publisher } = await filled(t, 3, { to: first });
    const { epoch } = await publisher.join(room);
    await first.stop();
    const second = await t.start();
    const ann = await t.connect({ to: second });
    const joined = await ann.join(room, { recover: { epoch, offset: 3 } });
    assert.equal(joined.recovered, false);
    assert.notEqual(joined.epoch, epoch);
  },

  async 'the same message_id is accepted once and answered alike'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    await bob.join(room);
    const first = await ann.publish(room, 'once', { message_id: 'same' });
    assert.deepEqual(await ann.publish(room, 'once', { message_id: 'same' }), first);
    assert.deepEqual(await ann.publish(room, 'other text', { message_id: 'same' }), first);
    // Also from another connection of the same user: the usual resend.
    ann.socket.terminate();
    const again = await t.connect({ user: 'ann' });
    assert.deepEqual(await again.publish(room, 'once', { message_id: 'same' }), first);
    const third = await bob.publish(room, 'mine', { message_id: 'same' });
    assert.equal(third.offset, first.offset + 1, 'another user’s key is another key');
    const elsewhere = await again.publish(t.room(), 'once', { message_id: 'same' });
    assert.equal(elsewhere.offset, 1, 'so is another room’s');
    assert.deepEqual((await bob.takeAll('message', 2)).map(m => m.payload), ['once', 'mine']);
    assert.deepEqual(await bob.rest(), []);
  },

  async 'a repeat in the same breath is accepted once'(t) {
    const room = t.room();
    const ann = await t.connect({ user: 'ann' });
    await ann.join(room);
    for (let n = 0; n < 20; n++) ann.send({ type: 'message', room, payload: n, metadata: { message_id: 'burst' } });
    const answers = await ann.takeAll('message_sent', 20);
    assert(answers.every(({ payload }) => payload.offset === 1 && payload.message_id === 'burst'));
    assert.deepEqual((await ann.takeAll('message', 1)).map(m => m.payload), [0]);
    assert.deepEqual(await ann.rest(), []);
  },
};
