// What is refused and how, and what passes unchanged: handshakes, envelopes, frames, bytes.
import { readdirSync, readFileSync } from 'node:fs';
import { assert, handshake, SUBPROTOCOL, until } from '../harness.mjs';

export default {
  async 'a client that offers no subprotocol gets version 1'(t) {
    const client = await t.connect({ protocols: [] });
    assert.equal(client.socket.protocol, '');
    assert.equal(client.me.protocol, SUBPROTOCOL);
  },

  async 'ours is selected among others, and a bearer entry never is'(t) {
    const client = await t.connect({ protocols: ['graphql-ws', 'tidewheel.bearer.secret', SUBPROTOCOL] });
    assert.equal(client.socket.protocol, SUBPROTOCOL);
  },

  async 'only unknown subprotocols are HTTP 400 with a list of what is spoken'(t) {
    for (const offered of ['graphql-ws', 'tidewheel.v2.json, mqtt', 'tidewheel.bearer.secret']) {
      const { status, body } = await handshake(t.server, '/ws', { 'sec-websocket-protocol': offered });
      assert.equal(status, 400, offered);
      assert(body.includes(SUBPROTOCOL), body);
      assert(!body.includes('secret'), 'a token is not repeated');
    }
  },

  async 'a room in the path is joined unasked'(t) {
    const name = `${t.room()}/ü & co`;
    const client = await t.connect({ path: `/ws/${encodeURIComponent(name)}`, user: 'ann' });
    const joined = await client.take('room_joined');
    assert.deepEqual([joined.room, joined.payload.members, joined.payload.recovered], [name, 1, false]);
    await client.publish(name, 1);
    await client.take('message');
  },

  async 'a bad room or user in the URL, and a token there, is HTTP 400'(t) {
    for (const path of ['/ws/%', '/ws/%zz', '/ws/%f', '/ws/%ff%fe', '/ws/%00', '/ws/a%0Ab', '/ws/%C2%85', '/ws/', `/ws/${'x'.repeat(256)}`,
      '/ws?user_id=', '/ws?user_id=%zz', '/ws?user_id=%00', '/ws?token=secret', '/ws/room?user_id=ann&token=secret']) {
      const { status, body } = await handshake(t.server, path);
      assert.equal(status, 400, path);
      assert(body.length > 0 && !body.includes('secret'), path);
    }
    assert.equal((await handshake(t.server, '/ws/plain?user_id=ann&other=1')).status, 101);
  },

  async 'a request that is no handshake gets the status that says so'(t) {
    for (const [path, headers, expected] of [
      ['/ws', { upgrade: 'h2c' }, 426], ['/ws', { 'sec-websocket-version': '8' }, 426], ['/ws', { 'sec-websocket-key': 'short' }, 400], ['/nowhere', {}, 404],
    ]) {
      const { status, headers: answered } = await handshake(t.server, path, headers);
      assert.equal(status, expected, `${path} ${JSON.stringify(headers)}`);
      if (expected === 426) assert.equal(answered['sec-websocket-version'], '13');
    }
    assert.equal((await fetch(t.server.page('/ws'))).status, 426);
    assert.equal((await fetch(t.server.page('/'), { method: 'POST' })).status, 405);
  },

  async 'what is not a message of the documented form is error 4006, and the connection stays'(t) {
    const room = t.room();
    const texts = [
      '', '{', 'null', '[]', '"message"', '42', '{}', '{"type":1}', '{"type":"no_such_type"}', '{"type":"message"} {}', "{'type':'ping'}", '{"type":"ping",}',
      '{"type":"ping","type":"ping"}', `{"type":"message","room":"${room}","payload":1,"payload":2}`, `{"type":"message","room":"${room}","payload":01}`,
      `{"type":"message","room":"${room}"}`, '{"type":"message","payload":1}', `{"type":"message","room":"${room}","payload":1,"metadata":[]}`,
      `{"type":"message","room":"${room}","payload":1,"metadata":{"echo":"no"}}`, `{"type":"message","room":"${room}","payload":1,"metadata":{"message_id":""}}`,
      `{"type":"message","room":"${room}","payload":1,"metadata":{"message_id":"${'x'.repeat(65)}"}}`,
      '{"type":"join_room"}', '{"type":"join_room","room":""}', '{"type":"join_room","room":7}', '{"type":"join_room","room":"a\\u0000b"}', '{"type":"join_room","room":"a\\u0085b"}',
      `{"type":"join_room","room":"${'x'.repeat(256)}"}`, `{"type":"join_room","room":"${room}","payload":{"history":-1}}`, `{"type":"join_room","room":"${room}","payload":{"recover":{"offset":1}}}`,
      `{"type":"join_room","room":"${room}","payload":{"presence":1}}`, `{"type":"read_receipt","room":"${room}"}`, `{"type":"read_receipt","room":"${room}","payload":{"offset":1.5}}`,
      '{"type":"direct_message","payload":{"data":1}}', '{"type":"direct_message","payload":{"user_id":"ann"}}', `{"type":"message","room":"${room}","payload":${'['.repeat(513)}${']'.repeat(513)}}`,
    ];
    let client = null;
    for (const [n, text] of texts.entries()) {
      // Ten within a minute are borne by one connection.
      if (n % 9 === 0) client = await t.connect();
      client.send(text);
      const { payload } = await client.take('error');
      assert.equal(payload.code, 4006, text);
      assert(payload.message.length > 0, text);
      assert.equal((await client.ask({ type: 'ping' })).type, 'pong', text);
    }
    assert.equal((await client.ask({ type: 'history_query', room })).payload.offset, 0, 'nothing of it was published');
  },

  async 'more than ten such errors within a minute close with 4006'(t) {
    const client = await t.connect();
    for (let n = 0; n < 11; n++) client.send('nonsense');
    assert.equal((await client.closing()).code, 4006);
    assert.equal(client.inbox.filter(frame => frame.type === 'error' && frame.payload.code === 4006).length >= 10, true);
  },

  async 'unknown members are ignored'(t) {
    const client = await t.connect(), room = t.room();
    client.send(`{"v":2,"type":"message","extra":{"type":"x"},"room":"${room}","payload":1,"metadata":{"correlation_id":"c","trace":[1]}}`);
    assert.equal((await client.take('message_sent')).metadata.correlation_id, 'c');
  },

  async 'auth is answered where no authentication is asked for'(t) {
    const client = await t.connect({ user: 'ann' });
    const reply = await client.ask({ type: 'auth', payload: { token: 'whatever' } });
    assert.deepEqual([reply.type, reply.payload], ['auth_response', { user_id: 'ann' }]);
  },

  async 'a binary message closes with 1003'(t) {
    const client = await t.connect();
    client.socket.send(Buffer.from('{"type":"ping"}'));
    assert.equal((await client.closing()).code, 1003);
  },

  async 'a message over the limit closes with 1009, one at the limit does not'(t) {
    const client = await t.connect(), room = t.room();
    const padded = length => { const text = `{"type":"message","room":"${room}","payload":""}`; return text.replace('""', `"${'x'.repeat(length - text.length)}"`); };
    client.send(padded(client.me.max_message_bytes));
    await client.take('message_sent');
    client.send(padded(client.me.max_message_bytes + 1));
    assert.equal((await client.closing()).code, 1009);
    const inPieces = await t.connect();
    inPieces.socket.send('x'.repeat(60_000), { fin: false });
    inPieces.socket.send('x'.repeat(60_000), { fin: true });
    assert.equal((await inPieces.closing()).code, 1009);
  },

  async 'text that is not UTF-8 closes with 1007, an unmasked frame with 1002'(t) {
    const garbled = await t.connect();
    garbled.socket.send(Buffer.from([0x22, 0xc3, 0x28, 0x22]), { binary: false });
    assert.equal((await garbled.closing()).code, 1007);
    const unmasked = await t.connect();
    unmasked.socket.send('{"type":"ping"}', { mask: false });
    assert.equal((await unmasked.closing()).code, 1002);
  },

  async 'a message in fragments, with a ping between them, is one message'(t) {
    const client = await t.connect(), room = t.room();
    await client.join(room);
    const text = JSON.stringify({ type: 'message', room, payload: 'zwölf 🛞 fragments' });
    const parts = Buffer.from(text), cut = Math.ceil(parts.length / 12);
    const ponged = new Promise(done => { client.socket.once('pong', data => done(String(data))); });
    for (let at = 0; at < parts.length; at += cut) {
      client.socket.send(parts.subarray(at, at + cut), { binary: false, fin: at + cut >= parts.length });
      if (at === 0) client.socket.ping('between');
    }
    assert.equal(await ponged, 'between');
    assert.equal((await client.take('message')).payload, 'zwölf 🛞 fragments');
  },

  async 'a payload passes byte for byte'(t) {
    const room = t.room();
    const [ann, bob] = [await t.connect(), await t.connect()];
    await bob.join(room);
    const payloads = [
      '123456789012345678901234567890', '-0', '1.50', '1E400', '0.1000000000000000055511151231257827', '{"b":1,"a":2,"10":3,"2":4}',
      '"\\u0041\\/\\ud83d\\ude00\\u00e9é"', '"\\ud800"', '{"same":1,"same":2}', '[[],{},[null,true,false]]', '""', 'null', `"${'🛞'.repeat(1000)}"`,
      `${'['.repeat(500)}${']'.repeat(500)}`, '{"type":"message","room":"x","metadata":{}}', '"</script>\\u2028"',
    ];
    for (const payload of payloads) {
      ann.send(`{"room":"${room}","payload":${payload},"type":"message"}`);
      const { raw } = await bob.take('message');
      assert(raw.includes(`"payload":${payload}`), `${payload.slice(0, 80)} became ${raw.slice(0, 200)}`);
    }
    await ann.join(room, { history: 3 });
    assert((await ann.take('message')).raw.includes(`"payload":${payloads.at(-3)}`), 'also from history');
    const { raw } = await ann.ask({ type: 'history_query', room });
    for (const payload of payloads) assert(raw.includes(`"payload":${payload}`), 'also in a history query');
  },

  async 'a ping is answered with its payload, or none'(t) {
    const client = await t.connect();
    assert.deepEqual(await client.ask({ type: 'ping' }), { type: 'pong', metadata: { correlation_id: 'ask-1' } });
    client.send('{"type":"ping","payload":{"at":12345678901234567890,"x":[1.0]}}');
    assert.equal((await client.take('pong')).raw, '{"type":"pong","payload":{"at":12345678901234567890,"x":[1.0]}}');
    const ponged = new Promise(done => { client.socket.once('pong', data => done(String(data))); });
    client.socket.ping('frame');
    assert.equal(await ponged, 'frame');
  },

  async 'a client’s own close is answered with its code'(t) {
    for (const code of [1000, 1001, 3000, 4999]) {
      const client = await t.connect();
      client.socket.close(code, 'bye');
      assert.equal((await client.closing()).code, code);
    }
  },

  async 'too many rooms on a connection is error 4013'(t) {
    const server = await t.start('--max-rooms-per-connection', '2');
    const client = await t.connect({ to: server });
    await client.join('one'); await client.join('two');
    await client.refusal({ type: 'join_room', room: 'three' }, 4013);
    await client.ask({ type: 'leave_room', room: 'one' });
    await until(async () => (await client.ask({ type: 'join_room', room: 'three' })).type === 'room_joined', 'the place to be free');
  },

  async 'a pinned server that spins and has small buffers serves, each core on a processor of its own'(t) {
    const server = await t.start('--pin-cores', '--spin', '50us', '--sndbuf', '8KiB', '--rcvbuf', '8KiB');
    const tasks = `/proc/${server.child.pid}/task`;
    const cores = readdirSync(tasks).filter(task => readFileSync(`${tasks}/${task}/comm`, 'utf8').startsWith('core-'));
    const allowed = cores.map(task => /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync(`${tasks}/${task}/status`, 'utf8'))[1]);
    assert.equal(new Set(allowed).size, cores.length);
    assert(allowed.every(list => /^\d+$/.test(list)), String(allowed));
    const [ann, bob] = [await t.connect({ to: server }), await t.connect({ to: server })];
    await ann.join('tuned'); await bob.join('tuned');
    const large = 'x'.repeat(60_000);
    await ann.publish('tuned', large);
    assert.equal((await bob.take('message')).payload, large);
  },
};
