// What clients say to each other: rooms, messages, users, presence, typing, reading.
import { assert, sleep, until } from '../harness.mjs';

const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

export default {
  async 'a connection is told who it is, when it is and what it may do'(t) {
    const { me } = await t.connect({ user: 'Jörg 1' });
    assert.equal(me.user_id, 'Jörg 1');
    assert.match(me.server_time, TIMESTAMP);
    assert(Math.abs(Date.parse(me.server_time) - Date.now()) < 60_000);
    assert.equal(me.protocol, 'tidewheel.v1.json');
    assert.equal(me.heartbeat_interval_ms, 25_000);
    assert.equal(me.max_message_bytes, 65_536);
    const { me: nameless } = await t.connect();
    assert.equal(nameless.user_id, `anon-${nameless.client_id}`);
    assert.notEqual(nameless.client_id, me.client_id);
  },

  async 'two members get both their messages in the same order, with positions'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    const joined = await ann.join(room);
    assert.deepEqual({ ...joined, epoch: '' }, { offset: 0, epoch: '', recovered: false, members: 1 });
    assert.equal((await bob.join(room)).members, 2);
    const sent = await ann.publish(room, { text: 'one' }, { message_id: 'ann-1' });
    assert.deepEqual(sent, { offset: 1, epoch: joined.epoch, message_id: 'ann-1' });
    assert.equal((await bob.publish(room, { text: 'two' })).offset, 2);
    for (const client of [ann, bob]) {
      const [one, two] = await client.takeAll('message', 2);
      assert.deepEqual([one.offset, two.offset], [1, 2]);
      assert.deepEqual([one.room, one.payload], [room, { text: 'one' }]);
      assert.match(one.metadata.timestamp, TIMESTAMP);
      assert.deepEqual({ ...one.metadata, timestamp: '' }, { message_id: 'ann-1', timestamp: '', client_id: ann.me.client_id, user_id: 'ann' });
      assert.equal(two.metadata.user_id, 'bob');
      assert.equal(typeof two.metadata.message_id, 'string');
    }
  },

  async 'publishers at once are put into one order for all members'(t) {
    const room = t.room(), each = 200;
    const clients = await Promise.all([1, 2, 3, 4].map(n => t.connect({ user: `p${n}` })));
    for (const client of clients) await client.join(room);
    for (let n = 0; n < each; n++) for (const client of clients) client.send({ type: 'message', room, payload: n });
    const seen = await Promise.all(clients.map(client => client.takeAll('message', each * clients.length)));
    assert.deepEqual(seen[0].map(m => m.offset), Array.from({ length: each * clients.length }, (_, n) => n + 1));
    const order = frames => frames.map(m => `${m.offset} ${m.metadata.user_id} ${m.payload}`).join('\n');
    for (const frames of seen) assert.equal(order(frames), order(seen[0]));
    for (const client of clients) {
      const own = seen[0].filter(m => m.metadata.user_id === client.me.user_id).map(m => m.payload);
      assert.deepEqual(own, Array.from({ length: each }, (_, n) => n), 'one publisher’s messages keep their order');
    }
  },

  async 'a publisher needs no membership and then gets no copy'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect(), await t.connect()];
    await ann.join(room);
    assert.equal((await bob.publish(room, 1)).offset, 1);
    await ann.take('message');
    assert.deepEqual(await bob.rest(), []);
  },

  async 'echo: false keeps a message from its sender alone, and not from history'(t) {
    const room = t.room();
    const [ann, bob, again] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' }), await t.connect({ user: 'ann' })];
    for (const client of [ann, bob, again]) await client.join(room);
    await ann.publish(room, 'quiet', { echo: false });
    await ann.publish(room, 'loud');
    assert.deepEqual((await ann.takeAll('message', 1)).map(m => [m.offset, m.payload]), [[2, 'loud']]);
    for (const client of [bob, again]) assert.deepEqual((await client.takeAll('message', 2)).map(m => m.payload), ['quiet', 'loud']);
    const { payload } = await ann.ask({ type: 'history_query', room });
    assert.deepEqual(payload.messages.map(m => m.payload), ['quiet', 'loud']);
  },

  async 'a correlation id stands in the answer, and only there'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect(), await t.connect()];
    await bob.join(room);
    await ann.ask({ type: 'message', room, payload: 1, metadata: { message_id: 'm' } });
    const { metadata } = await bob.take('message');
    assert(!('correlation_id' in metadata));
    const missing = await ann.refusal({ type: 'message', room }, 4006);
    assert.equal(missing.room, room);
  },

  async 'a direct message reaches every connection of its user'(t) {
    const user = `dm-${t.room()}`;
    const [ann, one, two] = [await t.connect({ user: 'ann' }), await t.connect({ user }), await t.connect({ user })];
    const reply = await ann.ask({ type: 'direct_message', payload: { user_id: user, data: { n: 1 } }, metadata: { message_id: 'dm-1' } });
    assert.equal(reply.type, 'message_sent');
    assert.deepEqual(reply.payload, { message_id: 'dm-1' });
    for (const client of [one, two]) {
      const frame = await client.take('direct_message');
      assert.deepEqual(frame.payload, { data: { n: 1 } });
      assert.deepEqual({ ...frame.metadata, timestamp: '' }, { message_id: 'dm-1', timestamp: '', client_id: ann.me.client_id, user_id: 'ann' });
    }
    await one.close(); await two.close();
    const send = () => ann.ask({ type: 'direct_message', payload: { user_id: user, data: 2 } });
    await until(async () => (await send()).type === 'error', 'all cores to know of the close');
    await ann.refusal({ type: 'direct_message', payload: { user_id: user, data: 2 } }, 4014);
  },

  async 'typing starts once a second, and stops only after a start that passed'(t) {
    const room = t.room();
    const [ann, bob, annToo] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' }), await t.connect({ user: 'ann' })];
    for (const client of [ann, bob, annToo]) await client.join(room);
    const types = ['typing_stop', 'typing_start', 'typing_start', 'typing_stop', 'typing_stop', 'typing_start', 'message'];
    for (const type of types) ann.send({ type, room, ...(type === 'message' ? { payload: 'end' } : {}) });
    await bob.take('message');
    const frames = (await bob.rest()).filter(frame => frame.type.startsWith('typing'));
    assert.deepEqual(frames.map(frame => frame.type), ['typing_start', 'typing_stop']);
    for (const frame of frames) assert.deepEqual([frame.room, frame.metadata.user_id], [room, 'ann']);
    await annToo.take('message');
    assert.deepEqual((await annToo.rest()).map(frame => frame.type), [], 'not to the same user’s other connections');
    // A second later a start passes again.
    await sleep(1100);
    ann.send({ type: 'typing_start', room });
    await bob.take('typing_start');
  },

  async 'read receipts go to the others, and the highest is kept'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    await ann.join(room); await bob.join(room);
    for (let n = 0; n < 3; n++) await ann.publish(room, n);
    for (const offset of [3, 1]) bob.send({ type: 'read_receipt', room, payload: { offset } });
    const receipt = await ann.take('read_receipt');
    assert.deepEqual([receipt.room, receipt.payload, receipt.metadata], [room, { offset: 3 }, { user_id: 'bob' }]);
    await bob.rest();
    const reply = await bob.ask({ type: 'presence_query', room });
    assert.equal(reply.type, 'room_members');
    assert.equal(reply.payload.count, 2);
    const members = [...reply.payload.members].sort((a, b) => a.user_id < b.user_id ? -1 : 1);
    assert.deepEqual(members, [{ user_id: 'ann', connections: 1 }, { user_id: 'bob', connections: 1, read: 3 }]);
  },

  async 'presence counts users, not connections'(t) {
    const room = t.room();
    const ann = await t.connect({ user: 'ann' });
    await ann.join(room, { presence: true });
    const [one, two] = [await t.connect({ user: 'bob' }), await t.connect({ user: 'bob' })];
    assert.equal((await one.join(room)).members, 2);
    assert.equal((await two.join(room)).members, 2);
    const came = await ann.take('presence_update');
    assert.deepEqual([came.room, came.payload], [room, { event: 'join', user_id: 'bob', count: 2 }]);
    const reply = await ann.ask({ type: 'presence_query', room });
    assert.deepEqual(reply.payload.members.find(m => m.user_id === 'bob'), { user_id: 'bob', connections: 2 });
    await one.close();
    await two.publish(room, 'still here');
    await ann.take('message');
    assert.deepEqual((await ann.rest()).filter(frame => frame.type === 'presence_update'), []);
    two.socket.terminate();
    assert.deepEqual((await ann.take('presence_update')).payload, { event: 'leave', user_id: 'bob', count: 1 });
    assert.deepEqual((await ann.rest()).filter(frame => frame.type === 'presence_update'), [], 'one leave, not two');
  },

  async 'presence comes to those who asked, and joining again changes that'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    await ann.join(room); await ann.publish(room, 'before');
    await ann.take('message');
    await bob.join(room);
    await bob.ask({ type: 'leave_room', room });
    await bob.publish(room, 1);
    await ann.take('message');
    assert.deepEqual(await ann.rest(), [], 'nobody asked');
    assert.equal((await ann.join(room, { presence: true, history: 10 })).offset, 2);
    assert.deepEqual(await ann.rest(), [], 'joining again replays nothing');
    await bob.join(room);
    assert.equal((await ann.take('presence_update')).payload.event, 'join');
  },

  async 'leaving is answered, also by one who was no member, and ends the messages'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    const never = await ann.ask({ type: 'leave_room', room: t.room() });
    assert.deepEqual([never.type, never.payload], ['room_left', {}]);
    await ann.join(room); await bob.join(room);
    await ann.ask({ type: 'leave_room', room });
    await bob.publish(room, 'gone?');
    await bob.take('message');
    assert.deepEqual(await ann.rest(), []);
    assert.equal((await ann.join(room, { history: 1 })).members, 2);
    assert.equal((await ann.take('message')).payload, 'gone?');
  },

  async 'a closed connection has left its rooms'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect({ user: 'ann' }), await t.connect({ user: 'bob' })];
    await ann.join(room, { presence: true }); await bob.join(room);
    await ann.take('presence_update');
    await bob.close();
    assert.deepEqual((await ann.take('presence_update')).payload, { event: 'leave', user_id: 'bob', count: 1 });
    assert.equal((await ann.ask({ type: 'presence_query', room })).payload.count, 1);
  },

  async 'room and user names may be any text without control characters'(t) {
    for (const name of ['ü', '房间', 'a/b?c=d&e', ' with space ', '"quoted\\"', '🛞'.repeat(60), 'x'.repeat(255)]) {
      const client = await t.connect({ user: name });
      assert.equal(client.me.user_id, name);
      await client.join(name);
      await client.publish(name, name);
      const { room, payload, metadata } = await client.take('message');
      assert.deepEqual([room, payload, metadata.user_id], [name, name, name]);
      await client.close();
    }
  },
};
