// Events for a backend: the backends of docs/hooks.md as they stand there, and one that counts.
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, sleep, until } from '../harness.mjs';

const DOCS = readFileSync(new URL('../../../../docs/hooks.md', import.meta.url), 'utf8');
const block = language => new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``).exec(DOCS)[1];
const SECRET = 'a secret of the tests, long enough';

async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1');
  await new Promise(done => { listener.on('listening', done); });
  const { port } = listener.address();
  await new Promise(done => { listener.close(done); });
  return port;
}

function folder(t) {
  const path = mkdtempSync(join(tmpdir(), 'tidewheel-'));
  t.open.push(() => rmSync(path, { recursive: true }));
  writeFileSync(join(path, 'events.secret'), `${SECRET}\n`);
  return path;
}

/** A program of the documentation, which prints the events that it believes. */
async function documented(t, command, file, language) {
  const cwd = folder(t);
  writeFileSync(join(cwd, file), block(language));
  const port = await freePort();
  const child = spawn(command, [file], { cwd, env: { ...process.env, PORT: port }, stdio: ['ignore', 'pipe', 'inherit'] });
  t.open.push(() => child.kill('SIGKILL'));
  const events = [];
  let text = '';
  child.stdout.on('data', more => {
    const lines = (text += more).split('\n');
    text = lines.pop();
    for (const line of lines) if (line.startsWith('{')) events.push(JSON.parse(line));
  });
  const url = `http://127.0.0.1:${port}/events`;
  await until(() => fetch(url, { method: 'POST', body: '{}' }).then(() => true, () => false), `${file} to listen`);
  return { url, events, secret: join(cwd, 'events.secret') };
}

const told = events => events.map(({ type, room, user_id: user }) => [type, room ?? user].filter(Boolean).join(' '));

async function believed(t, command, file, language) {
  const { url, events, secret } = await documented(t, command, file, language);
  const server = await t.start('--webhook', url, '--webhook-secret-file', secret, '--webhook-delay', '300ms', '--drain-window', '0s', '--node-name', 'edge-1');
  const ann = await t.connect({ to: server, path: '/ws/h%C3%A4fen?user_id=ann' });
  await ann.take('room_joined');
  await until(() => events.length >= 3, 'ann to be told of');
  assert.deepEqual(told(events).sort(), ['node_started', 'room_occupied häfen', 'user_connected ann']);
  assert(events.every(({ at }) => Math.abs(Date.parse(at) - Date.now()) < 10_000));
  ann.socket.close();
  await until(() => events.length >= 5, 'ann to be gone');
  assert.deepEqual(told(events).slice(3).sort(), ['room_vacated häfen', 'user_disconnected ann']);

  // A stranger's, one of last year, and one whose body is another are not believed.
  const body = JSON.stringify({ node: 'edge-1', epoch: 'x', sequence: 9, events: [{ type: 'forged' }] });
  const sign = (key, t) => `t=${t},v1=${createHmac('sha256', key).update(`${t}.${body}`).digest('hex')}`;
  const now = Math.floor(Date.now() / 1000);
  for (const [signature, text] of [[sign('a guess', now), body], [sign(SECRET, now - 30_000_000), body], [sign(SECRET, now), `${body} `], ['', body]]) {
    const answer = await fetch(url, { method: 'POST', body: text, headers: { 'tidewheel-signature': signature } });
    assert.equal(answer.status, 401);
  }
  assert.equal((await fetch(url, { method: 'POST', body, headers: { 'tidewheel-signature': sign(SECRET, now) } })).status, 204);
  await until(() => events.some(({ type }) => type === 'forged'), 'what is signed to be believed');
  const end = await server.stop();
  assert.equal(end.code, 0);
  await until(() => events.at(-1).type === 'node_stopping', 'the end to be told');
}

export default {
  async 'the backend of docs/hooks.md in Node believes what the server tells, and nobody else'(t) {
    await believed(t, process.execPath, 'events.mjs', 'js');
  },

  async 'the backend of docs/hooks.md in Python does, too'(t) {
    await believed(t, 'python3', 'events.py', 'python');
  },

  async 'a backend that is down meanwhile gets every event in order, and a drain is one event'(t) {
    const port = await freePort();
    const server = await t.start('--webhook', `http://127.0.0.1:${port}/`, '--webhook-delay', '0s', '--drain-window', '200ms');
    for (let n = 0; n < 20; n += 1) {
      const client = await t.connect({ to: server, path: `/ws/r?user_id=u${n}` });
      await client.take('room_joined');
      if (n < 10) { client.socket.close(); await client.closed; }
    }
    await sleep(300);
    const batches = [];
    const listener = http.createServer(async (request, response) => {
      let body = '';
      for await (const text of request) body += text;
      batches.push(JSON.parse(body));
      response.writeHead(204).end();
    });
    await new Promise(done => { listener.listen(port, '127.0.0.1', done); });
    t.open.push(() => { listener.closeAllConnections(); listener.close(); });
    const events = () => batches.flatMap(batch => batch.events);
    await until(() => events().some(({ user_id: user }) => user === 'u19'), 'everyone to be told of', 30_000);
    assert.deepEqual(batches.map(batch => batch.sequence), batches.map((_, n) => n + 1));
    assert.equal(new Set(batches.map(batch => batch.epoch)).size, 1);
    const ofUsers = events().filter(event => event.user_id).map(event => `${event.type} ${event.user_id}`);
    for (let n = 0; n < 20; n += 1) {
      const expected = [`user_connected u${n}`, ...n < 10 ? [`user_disconnected u${n}`] : []];
      assert.deepEqual(ofUsers.filter(text => text.endsWith(` u${n}`)), expected);
    }
    const ofRoom = events().filter(event => event.room === 'r').map(event => event.type);
    assert(ofRoom.every((type, n) => type === (n % 2 ? 'room_vacated' : 'room_occupied')) && ofRoom.length % 2 === 1, ofRoom.join());
    const before = events().length;
    assert.equal((await server.stop()).code, 0);
    assert.deepEqual(events().slice(before).map(({ type }) => type), ['node_stopping']);
  },
};
