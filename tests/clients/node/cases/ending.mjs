// Health, metrics, and how the server takes its leave.
import { assert, sleep, until } from '../harness.mjs';
import { settled } from '../ledger.mjs';

export default {
  async 'liveness, readiness and metrics answer on the admin listener'(t) {
    for (const path of ['/healthz', '/readyz']) assert.equal((await t.server.get(path)).status, 200, path);
    const { status, text } = await t.server.get('/metrics');
    assert.equal(status, 200);
    assert.match(text, /^# HELP tidewheel_/m);
    assert.match(text, /^# TYPE tidewheel_connections gauge$/m);
  },

  async 'the delivery ledger balances, whatever became of the connections'(t) {
    const server = await t.start();
    const room = t.room();
    const clients = await Promise.all([1, 2, 3, 4, 5, 6].map(n => t.connect({ to: server, user: `u${n}` })));
    for (const client of clients) await client.join(room, { presence: true });
    clients[0].socket.pause();
    for (let n = 0; n < 50; n++) clients[1].send({ type: 'message', room, payload: 'x'.repeat(20_000), metadata: { echo: n % 2 === 0 } });
    await clients[1].takeAll('message_sent', 50);
    clients[0].socket.terminate();
    clients[2].socket.terminate();
    clients[3].socket.close(1000);
    clients[4].send('nonsense');
    clients[5].socket.send(Buffer.from('binary'));
    await Promise.all([0, 2, 3, 5].map(n => clients[n].closing()));
    clients[1].send({ type: 'direct_message', payload: { user_id: 'u5', data: 1 } });
    await clients[4].take('direct_message');
    for (const client of [clients[1], clients[4]]) client.socket.terminate();
    await until(async () => await server.metric('tidewheel_connections{') === 0, 'the connections to be gone');
    await settled(server);
    assert(await server.metric('tidewheel_ledger_frames_total{kind="message",outcome="delivered"}') > 0);
  },

  async 'SIGTERM tells everyone, closes each with 4200 in its own time, and ends with code 0'(t) {
    const server = await t.start('--drain-window', '2s');
    const clients = await Promise.all(Array.from({ length: 12 }, () => t.connect({ to: server })));
    await clients[0].join(t.room());
    const begun = Date.now();
    server.child.kill('SIGTERM');
    const notices = await Promise.all(clients.map(client => client.take('server_shutdown')));
    assert(Date.now() - begun < 1500, 'everyone is told at once');
    for (const { payload } of notices) assert(Number.isInteger(payload.reconnect_after_ms) && payload.reconnect_after_ms >= 0, JSON.stringify(payload));
    assert.equal((await server.get('/readyz')).status, 503);
    assert.equal((await server.get('/healthz')).status, 200);
    const closed = await Promise.all(clients.map(async client => { const { code } = await client.closing(); return [code, Date.now() - begun]; }));
    assert.deepEqual(closed.map(([code]) => code), clients.map(() => 4200));
    const moments = closed.map(([, at]) => at);
    assert(Math.max(...moments) < 4000 && Math.max(...moments) - Math.min(...moments) > 200, `spread over the window: ${moments}`);
    assert.deepEqual(await server.exited, { code: 0, signal: null });
  },

  async 'a drain without connections ends at once, and SIGINT does the same'(t) {
    for (const signal of ['SIGTERM', 'SIGINT']) {
      const server = await t.start('--drain-window', '60s');
      const begun = Date.now();
      server.child.kill(signal);
      assert.deepEqual(await server.exited, { code: 0, signal: null });
      assert(Date.now() - begun < 5000, signal);
    }
  },

  async 'messages still flow while the server drains'(t) {
    const server = await t.start('--drain-window', '3s');
    const room = t.room();
    const clients = await Promise.all([1, 2, 3, 4, 5, 6].map(() => t.connect({ to: server })));
    for (const client of clients) await client.join(room);
    server.child.kill('SIGTERM');
    await Promise.all(clients.map(client => client.take('server_shutdown')));
    await sleep(50);
    const left = clients.filter(client => !client.end);
    assert(left.length >= 2, 'some are still open');
    const [publisher, reader] = left.slice(-2);
    publisher.send({ type: 'message', room, payload: 'last words' });
    const came = await Promise.race([reader.take('message'), reader.closed.then(() => null), publisher.closed.then(() => null)]);
    assert(came === null || came.payload === 'last words');
    await server.exited;
  },
};
