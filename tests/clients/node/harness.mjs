// A running server, clients that remember what they were told, and a wire that can be cut.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';
import WebSocket from 'ws';

export { assert };
export const SUBPROTOCOL = 'tidewheel.v1.json';
const PATIENCE_MS = 10_000;

const running = new Set();
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });

export const sleep = ms => new Promise(done => { setTimeout(done, ms); });

/** Resolves with `promise`, or fails with `what` after a while. */
export async function within(promise, what, ms = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`timed out: ${what}`)), ms); });
  try { return await Promise.race([promise, late]); } finally { clearTimeout(timer); }
}

/** Asks `probe` until it gives something true. */
export async function until(probe, what, ms = PATIENCE_MS) {
  for (const end = Date.now() + ms; ; await sleep(20)) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
  }
}

/** The server under test, on ports of its own. */
export class Server {
  static async start(binary, flags = []) {
    const server = new Server();
    const args = ['--listen', '127.0.0.1:0', '--admin-listen', '127.0.0.1:0', ...flags];
    const child = server.child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    server.output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', text => { server.output = (server.output + text).slice(-20_000); });
    server.exited = new Promise(done => {
      child.on('error', error => done({ error }));
      child.on('exit', (code, signal) => { running.delete(child); done({ code, signal }); });
    });
    const addresses = new Promise(done => {
      let text = '';
      child.stdout.on('data', more => {
        text += more;
        const listen = /(?:listening on|public) +http(s?):\/\/(\S+)/.exec(text);
        const admin = /(?:admin on|admin) +http:\/\/(\S+)/.exec(text);
        if (listen && admin) done([listen[2], admin[1], listen[1]]);
      });
    });
    const early = server.exited.then(end => { throw new Error(`the server did not start: ${JSON.stringify(end)}\n${server.output}`); });
    early.catch(() => {});
    [server.listen, server.admin, server.s] = await within(Promise.race([addresses, early]), 'the start summary');
    return server;
  }

  get port() { return Number(this.listen.split(':').at(-1)); }
  ws(path = '/ws') { return `ws${this.s}://${this.listen}${path}`; }
  page(path = '/') { return `http${this.s}://${this.listen}${path}`; }

  /** An answer of the admin listener. */
  async get(path) {
    const answer = await within(fetch(`http://${this.admin}${path}`), path);
    return { status: answer.status, text: await answer.text() };
  }

  /** Every sample of /metrics: `name{labels}` to number. */
  async metrics() {
    const { status, text } = await this.get('/metrics');
    assert.equal(status, 200);
    const lines = text.split('\n').filter(line => line && !line.startsWith('#'));
    return new Map(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
  }

  /** The sum of all samples whose name starts with `prefix`. */
  async metric(prefix) {
    let sum = 0;
    for (const [name, value] of await this.metrics()) if (name.startsWith(prefix)) sum += value;
    return sum;
  }

  async stop() {
    this.child.kill('SIGTERM');
    const end = await within(this.exited, 'the server to stop', 15_000).catch(() => null);
    if (!end) { this.child.kill('SIGKILL'); await this.exited; }
    return end;
  }
}

/** One connection by npm's `ws`. What arrives waits in `inbox` until somebody takes it. */
export class Client {
  constructor(url, { protocols = SUBPROTOCOL, ...options } = {}) {
    this.inbox = []; this.waiting = new Set(); this.ids = 0;
    this.socket = new WebSocket(url, protocols, { perMessageDeflate: false, ...options });
    this.opened = new Promise((done, fail) => { this.socket.on('open', done); this.socket.on('error', fail); });
    this.opened.catch(() => {});
    this.closed = new Promise(done => {
      this.socket.on('close', (code, reason) => { this.end = { code, reason: String(reason) }; done(this.end); for (const look of [...this.waiting]) look(); });
    });
    this.socket.on('message', (data, isBinary) => {
      assert(!isBinary, 'the server sent a binary message');
      const frame = JSON.parse(data);
      Object.defineProperty(frame, 'raw', { value: String(data) });
      this.inbox.push(frame);
      for (const look of [...this.waiting]) look();
    });
  }

  static async open(url, options) {
    const client = new Client(url, options);
    await within(client.opened, `open ${url}`);
    client.me = (await client.take('connection_established')).payload;
    return client;
  }

  send(message) { this.socket.send(typeof message === 'string' ? message : JSON.stringify(message)); }

  /** The first waiting or coming frame of this type (or that this function likes). */
  take(wanted, ms = PATIENCE_MS) {
    const fits = typeof wanted === 'function' ? wanted : frame => frame.type === wanted;
    let look;
    const found = new Promise((done, fail) => {
      look = () => {
        const at = this.inbox.findIndex(fits);
        if (at < 0 && !this.end) return;
        this.waiting.delete(look);
        if (at >= 0) done(this.inbox.splice(at, 1)[0]);
        else fail(new Error(`closed with ${this.end.code} while waiting for ${wanted}`));
      };
      this.waiting.add(look); look();
    });
    return within(found, `${wanted} (waiting: ${this.inbox.map(frame => frame.type).join(', ') || 'nothing'})`, ms)
      .finally(() => this.waiting.delete(look));
  }

  async takeAll(type, count) {
    const frames = [];
    while (frames.length < count) frames.push(await this.take(type));
    return frames;
  }

  /** Sends with a correlation id, and gives the reply or the error that bears it. */
  ask({ metadata, ...message }) {
    const correlation_id = `ask-${++this.ids}`;
    this.send({ ...message, metadata: { ...metadata, correlation_id } });
    return this.take(frame => frame.metadata?.correlation_id === correlation_id);
  }

  async join(room, payload) {
    const reply = await this.ask({ type: 'join_room', room, payload });
    assert.equal(reply.type, 'room_joined', reply.raw);
    assert.equal(reply.room, room);
    return reply.payload;
  }

  async publish(room, payload, metadata) {
    const reply = await this.ask({ type: 'message', room, payload, metadata });
    assert.equal(reply.type, 'message_sent', reply.raw);
    return reply.payload;
  }

  /** Everything that came before the answer to a ping sent now, in order. */
  async rest() {
    assert.equal((await this.ask({ type: 'ping' })).type, 'pong');
    return this.inbox.splice(0);
  }

  /** An error with this code comes next; `ask` must have sent what causes it. */
  async refusal(message, code) {
    const reply = await this.ask(message);
    assert.equal(reply.type, 'error', reply.raw);
    assert.equal(reply.payload.code, code, reply.raw);
    assert.equal(typeof reply.payload.message, 'string');
    return reply;
  }

  /** How the server closes, which must be soon. */
  async closing(ms = PATIENCE_MS) { return within(this.closed, 'the close', ms); }

  async close() { this.socket.close(1000); await this.closing(); }
}

/** The answer to a handshake that may be refused. Nothing is normalised on the way. */
export function handshake(server, path, headers = {}) {
  const fields = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', ...headers };
  const asked = new Promise((done, fail) => {
    const request = http.request(`http://${server.listen}/`, { path, headers: fields, agent: false });
    request.on('upgrade', (answer, socket) => { socket.destroy(); done({ status: 101, headers: answer.headers, body: '' }); });
    request.on('response', answer => {
      let body = '';
      answer.on('data', text => { body += text; }).on('end', () => done({ status: answer.statusCode, headers: answer.headers, body }));
    });
    request.on('error', fail);
    request.end();
  });
  return within(asked, `handshake ${path}`);
}

/** A TCP proxy in front of a server: `cut` breaks every connection, `heal` lets new ones through. */
export class Wire {
  static async to(server) {
    const wire = new Wire();
    wire.target = server.port; wire.sockets = new Set(); wire.isCut = false;
    wire.listener = net.createServer(near => {
      if (wire.isCut) return near.resetAndDestroy();
      const far = net.connect(wire.target, '127.0.0.1');
      for (const [socket, other] of [[near, far], [far, near]]) {
        wire.sockets.add(socket);
        socket.on('error', () => {}).on('close', () => { wire.sockets.delete(socket); other.destroy(); });
      }
      near.pipe(far).pipe(near);
    });
    await new Promise(done => { wire.listener.listen(0, '127.0.0.1', done); });
    wire.listen = `127.0.0.1:${wire.listener.address().port}`;
    return wire;
  }

  cut() { this.isCut = true; for (const socket of this.sockets) socket.resetAndDestroy?.(); }
  heal(server) { this.isCut = false; if (server) this.target = server.port; }
  close() { this.cut(); this.listener.close(); }
}

/** What a case is given: the shared server, and ways to get things that end with it. */
export class Case {
  static rooms = 0;
  constructor(binary, server) { Object.assign(this, { binary, server, open: [] }); }
  room(name = 'room') { return `${name}-${++Case.rooms}`; }

  /** A connection; `user` names it, `to` is another server or path than the usual. */
  async connect({ user, to = this.server, path = '/ws', ...options } = {}) {
    const query = user === undefined ? '' : `?user_id=${encodeURIComponent(user)}`;
    const client = await Client.open(to.ws(path + query), options);
    this.open.push(() => client.socket.terminate());
    return client;
  }

  async start(...flags) {
    const server = await Server.start(this.binary, flags);
    this.open.push(() => server.stop());
    return server;
  }

  async wire(server) {
    const wire = await Wire.to(server);
    this.open.push(() => wire.close());
    return wire;
  }

  async end() { for (const close of this.open.reverse()) await close(); }
}

/** Offsets as runs, for messages: 1–3, 5. */
export const runs = offsets => {
  const out = [];
  for (const at of offsets) { const last = out.at(-1); if (last && at === last[1] + 1) last[1] = at; else out.push([at, at]); }
  return out.map(([from, to]) => from === to ? `${from}` : `${from}–${to}`).join(', ');
};
