// Who may enter: tokens by each of the ways, their ends, origins, and a backend that is asked.
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, Client, handshake, sleep, SUBPROTOCOL, until } from '../harness.mjs';

const SECRET = 'a secret of the tests that is long enough for HS256';
const base64 = value => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const inSeconds = s => Math.floor(Date.now() / 1000) + s;

function token(claims = {}, secret = SECRET) {
  const text = `${base64({ alg: 'HS256', typ: 'JWT' })}.${base64({ sub: 'ann', exp: inSeconds(3600), ...claims })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** A server that asks for tokens. */
async function guarded(t, ...flags) {
  const folder = mkdtempSync(join(tmpdir(), 'tidewheel-'));
  t.open.push(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'secret');
  writeFileSync(file, SECRET);
  return t.start('--auth', 'jwt', '--jwt-key-file', file, '--jwt-leeway', '0s', ...flags);
}

const bearer = token => ({ headers: { authorization: `Bearer ${token}` } });

/** A connection that is upgraded, and not more so far. */
async function knock(t, server, options = {}, path = '/ws') {
  const client = new Client(server.ws(path), options);
  t.open.push(() => client.socket.terminate());
  await client.opened;
  return client;
}

const auth = token => ({ type: 'auth', payload: { token } });

/** A backend that is asked about everyone. `answer` gets a question and the response. */
async function backend(t, answer) {
  const asked = [];
  const listener = http.createServer((request, response) => {
    let body = '';
    request.on('data', text => { body += text; }).on('end', () => {
      asked.push({ body, signature: request.headers['tidewheel-signature'], ...JSON.parse(body) });
      answer(asked.at(-1), response);
    });
  });
  await new Promise(done => { listener.listen(0, '127.0.0.1', done); });
  t.open.push(() => { listener.closeAllConnections(); listener.close(); });
  return { asked, url: `http://127.0.0.1:${listener.address().port}/auth` };
}

const say = (response, status, body = '') => { response.writeHead(status); response.end(typeof body === 'string' ? body : JSON.stringify(body)); };

export default {
  async 'a good token lets in by header, by subprotocol entry and by the first message'(t) {
    const server = await guarded(t);
    const good = token();
    for (const options of [bearer(good), { protocols: [SUBPROTOCOL, `tidewheel.bearer.${good}`] }]) {
      const client = await t.connect({ to: server, path: '/ws/hall?user_id=eve', ...options });
      assert.equal(client.me.user_id, 'ann');
      assert.equal(client.socket.protocol, SUBPROTOCOL);
      assert(!client.inbox.some(frame => frame.type === 'auth_response'));
      await client.take('room_joined');
    }
    const client = await knock(t, server, {}, '/ws/hall');
    const exp = inSeconds(3600);
    client.send(auth(token({ exp })));
    const { payload } = await client.take('auth_response');
    assert.equal(payload.user_id, 'ann');
    assert.equal(Date.parse(payload.expires_at), exp * 1000);
    assert.equal((await client.take('connection_established')).payload.user_id, 'ann');
    await client.take('room_joined');
    assert.equal(await server.metric('tidewheel_auth_accepted_total{'), 3);
  },

  async 'a bad token is upgraded and closed with 4002, whatever the way, and is repeated nowhere'(t) {
    const server = await guarded(t, '--log-level', 'trace');
    const bad = token({}, 'another secret of somebody else altogether');
    const late = token({ exp: inSeconds(-10) });
    for (const credential of [bad, late, 'nonsense']) {
      const byMessage = await knock(t, server);
      byMessage.send(auth(credential));
      const others = [bearer(credential), { protocols: [SUBPROTOCOL, `tidewheel.bearer.${credential}`] }].map(options => knock(t, server, options));
      for (const client of [byMessage, ...await Promise.all(others)]) {
        const { code, reason } = await client.closing();
        assert.equal(code, 4002);
        assert(reason.length > 0 && !reason.includes(credential));
        assert.equal(client.inbox.length, 0);
      }
    }
    assert.equal((await handshake(server, `/ws?token=${bad}`)).status, 400);
    assert(![bad, late].some(credential => server.output.includes(credential)), 'a token in the log');
    assert.equal(await server.metric('tidewheel_auth_refused_total{reason="signature"}'), 3);
    assert.equal(await server.metric('tidewheel_auth_refused_total{reason="expired"}'), 3);
  },

  async 'whoever does not say who it is, or says something else first, is closed with 4001'(t) {
    const server = await guarded(t, '--auth-timeout', '500ms');
    const silent = await knock(t, server);
    silent.socket.ping();
    const hasty = await knock(t, server);
    hasty.send({ type: 'join_room', room: 'r' });
    assert.equal((await hasty.closing()).code, 4001);
    assert.equal(await server.metric('tidewheel_connections{dialect="native",state="unauthenticated"}'), 1);
    assert.equal((await silent.closing()).code, 4001);
  },

  async 'a token is told of before its end, refreshed in time, and closes with 4106 otherwise'(t) {
    const server = await guarded(t);
    const [left, kept] = await Promise.all([1, 2].map(() => t.connect({ to: server, ...bearer(token({ exp: inSeconds(3) })) })));
    for (const client of [left, kept]) {
      const { payload } = await client.take('token_expiring');
      assert(payload.expires_in_ms > 0 && payload.expires_in_ms <= 2000, JSON.stringify(payload));
    }
    const answer = await kept.ask(auth(token({ exp: inSeconds(60) })));
    assert.equal(answer.type, 'auth_response');
    assert.equal((await left.closing()).code, 4106);
    await sleep(300);
    assert.equal((await kept.ask({ type: 'ping' })).type, 'pong');
    await kept.refusal(auth(token({ sub: 'bob' })), 4002);
    assert.equal((await kept.closing()).code, 4002);
  },

  async 'a connection is closed with 4105 when it is old enough, each in its own time'(t) {
    const server = await t.start('--max-connection-lifetime', '2s');
    const begun = Date.now();
    const clients = await Promise.all(Array.from({ length: 10 }, () => t.connect({ to: server })));
    const moments = await Promise.all(clients.map(async client => { assert.equal((await client.closing()).code, 4105); return Date.now() - begun; }));
    assert(Math.min(...moments) > 1700 && Math.max(...moments) < 3000 && Math.max(...moments) - Math.min(...moments) > 30, `${moments}`);
  },

  async 'a token says what its bearer may do where, and who it is to others'(t) {
    const server = await guarded(t, '--default-allow', 'join');
    const rooms = [{ pattern: 'chat:*', allow: ['join', 'publish', 'presence'] }, { pattern: 'news', allow: ['join'] }];
    const ann = await t.connect({ to: server, ...bearer(token({ rooms, info: { name: 'Ann' } })) });
    const bob = await t.connect({ to: server, ...bearer(token({ sub: 'bob', name: 'Bob' })) });
    await ann.join('chat:1', { presence: true });
    await ann.publish('chat:1', 1);
    await ann.join('news');
    const refused = await ann.refusal({ type: 'message', room: 'news', payload: 1 }, 4010);
    assert.equal(refused.room, 'news');
    for (const [type, more] of [['join_room', { room: 'secret' }], ['history_query', { room: 'chat:1' }], ['join_room', { room: 'chat:1', payload: { history: 1 } }],
      ['presence_query', { room: 'news' }], ['direct_message', { payload: { user_id: 'bob', data: 1 } }]]) {
      await ann.refusal({ type, ...more }, 4010);
    }
    await bob.join('chat:1');
    await bob.refusal({ type: 'message', room: 'chat:1', payload: 1 }, 4010);
    assert.deepEqual((await ann.take('presence_update')).payload.info, { name: 'Bob' });
    const { payload } = await ann.ask({ type: 'presence_query', room: 'chat:1' });
    assert.deepEqual(payload.members.map(member => [member.user_id, member.info]).sort(), [['ann', { name: 'Ann' }], ['bob', { name: 'Bob' }]]);
    bob.socket.terminate();
    assert.deepEqual((await ann.take('presence_update')).payload, { event: 'leave', user_id: 'bob', info: { name: 'Bob' }, count: 1 });
  },

  async 'pages of other origins are upgraded and closed with 4003'(t) {
    const server = await t.start('--allow-origin', 'https://app.example.com,*.example.org');
    const table = [[undefined, true], ['https://app.example.com', true], ['https://a.example.org', true],
      ['https://example.org', false], ['http://app.example.com', false], ['null', false], [`http://${server.listen}`, false]];
    for (const [origin, isAllowed] of table) {
      const client = await knock(t, server, { origin });
      if (isAllowed) await client.take('connection_established');
      else assert.equal((await client.closing()).code, 4003, origin);
    }
    // Without a list: the server's own page, and on loopback those of this machine.
    for (const [origin, isAllowed] of [[`http://${t.server.listen}`, true], ['http://localhost:3000', true], ['https://evil.example', false]]) {
      const client = await knock(t, t.server, { origin });
      if (isAllowed) await client.take('connection_established');
      else assert.equal((await client.closing()).code, 4003, origin);
    }
  },

  async 'the backend decides about token and headers, is asked once, and knows the question by its signature'(t) {
    const { asked, url } = await backend(t, ({ token, headers }, response) => {
      if (token === 'no') return say(response, 401);
      say(response, 200, { user_id: token ?? headers.cookie.split('=')[1], info: { via: 'backend' }, expires_at: inSeconds(600), rooms: [{ pattern: 'chat', allow: ['join'] }] });
    });
    const folder = mkdtempSync(join(tmpdir(), 'tidewheel-'));
    t.open.push(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'secret');
    writeFileSync(file, `${SECRET}\n`);
    const server = await t.start('--auth', 'webhook', '--auth-webhook-url', url, '--auth-webhook-header', 'cookie', '--auth-webhook-secret-file', file);

    const client = await knock(t, server, { ...bearer('ann'), origin: 'http://localhost:1' }, '/ws/chat');
    // Sent before anybody knows who it is.
    client.send({ type: 'message', room: 'chat', payload: 1 });
    assert.equal((await client.take('connection_established')).payload.user_id, 'ann');
    await client.take('room_joined');
    assert.equal((await client.take('error')).payload.code, 4010);
    const [question] = asked;
    assert.deepEqual([question.token, question.room, question.address, typeof question.client_id], ['ann', 'chat', '127.0.0.1', 'string']);
    assert.deepEqual(question.headers, { origin: 'http://localhost:1' });
    const [, time, tag] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(question.signature);
    assert.equal(tag, createHmac('sha256', SECRET).update(`${time}.${question.body}`).digest('hex'));

    const byCookie = await knock(t, server, { headers: { cookie: 'session=carl' } });
    assert.equal((await byCookie.take('connection_established')).payload.user_id, 'carl');
    const byMessage = await knock(t, server);
    byMessage.send(auth('dora'));
    assert.equal((await byMessage.take('auth_response')).payload.user_id, 'dora');

    const before = asked.length;
    const many = await Promise.all(Array.from({ length: 20 }, () => knock(t, server, bearer('eve'))));
    for (const one of many) await one.take('connection_established');
    assert.equal(asked.length, before + 1, 'the same question is asked once');
    for (let n = 0; n < 2; n++) assert.equal((await (await knock(t, server, bearer('no'))).closing()).code, 4002);
    assert.equal(asked.length, before + 2, 'and a no holds as long');
  },

  async 'a backend that is slow, down or talks nonsense lets nobody in, and 4100 says to come back'(t) {
    const { asked, url } = await backend(t, ({ token }, response) => {
      if (token === 'slow') return;
      if (token === 'nonsense') return say(response, 200, '<html>');
      if (token === 'long') return say(response, 200, { user_id: 'a', x: 'x'.repeat(70_000) });
      if (token === 'broken') return say(response, 500);
      say(response, 200, { user_id: token });
    });
    const server = await t.start('--auth', 'webhook', '--auth-webhook-url', url, '--auth-webhook-timeout', '300ms');
    for (const token of ['slow', 'nonsense', 'long', 'broken']) {
      const { code, reason } = await (await knock(t, server, bearer(token))).closing();
      assert.equal(code, 4100, token);
      assert(reason.includes('try again'), reason);
    }
    const known = await knock(t, server, bearer('ann'));
    await known.take('connection_established');
    // A refresh that nobody can judge leaves what was.
    await known.refusal(auth('slow'), 4000);
    assert.equal((await known.ask({ type: 'ping' })).type, 'pong');
    for (let n = 0; n < 12; n++) assert.equal((await (await knock(t, server, bearer(`broken`))).closing()).code, 4100);
    assert(asked.filter(({ token }) => token === 'broken').length < 12, 'it is left alone for a while');
    await until(async () => await server.metric('tidewheel_auth_webhook_circuit_open') === 1, 'the circuit to be open');
    assert.equal((await known.ask({ type: 'ping' })).type, 'pong');

    const nowhere = await t.start('--auth', 'webhook', '--auth-webhook-url', 'http://127.0.0.1:9/');
    assert.equal((await (await knock(t, nowhere, bearer('ann'))).closing()).code, 4100);
  },
};
