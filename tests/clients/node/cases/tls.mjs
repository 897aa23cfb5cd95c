// The same server over TLS, with a certificate that it makes for itself.
import http from 'node:http';
import tls from 'node:tls';
import { assert, until, within } from '../harness.mjs';

const trusting = { rejectUnauthorized: false };

/** A TLS socket that has shaken hands; `session` resumes one. */
const shake = (server, options) => within(new Promise((done, fail) => {
  const socket = tls.connect({ host: '127.0.0.1', port: server.port, ALPNProtocols: ['http/1.1'], ...trusting, ...options }, () => done(socket));
  socket.on('error', fail);
}), 'the TLS handshake');

export default {
  async 'a chat over wss: two members, a long message, an orderly close'(t) {
    const server = await t.start('--tls-self-signed');
    assert.match(server.output, /warning: --tls-self-signed/);
    assert.match(server.output, /fingerprint is [0-9A-F]{2}(:[0-9A-F]{2}){31}/);
    assert(server.ws().startsWith('wss://'));
    const [ann, bob] = [await t.connect({ to: server, user: 'ann', ...trusting }), await t.connect({ to: server, user: 'bob', ...trusting })];
    const room = t.room();
    await ann.join(room);
    await bob.join(room);
    const long = 'ä'.repeat(20_000);
    for (const text of ['one', long, 'three']) await ann.publish(room, text);
    assert.deepEqual((await bob.takeAll('message', 3)).map(m => m.payload), ['one', long, 'three']);
    await bob.close();
    assert.equal(bob.end.code, 1000);
    assert.equal(await server.metric('tidewheel_tls_handshakes_total{version="1.3"}'), 2);
    await until(async () => await server.metric('tidewheel_tls_pending_bytes') === 0, 'nothing pending');
  },

  async 'OpenSSL resumes a session of either version, and an older one is refused'(t) {
    const server = await t.start('--tls-self-signed', '--shards', '2');
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const only = { minVersion: version, maxVersion: version };
      const first = await shake(server, only);
      assert.equal(first.getProtocol(), version);
      assert.equal(first.alpnProtocol, 'http/1.1');
      let session = first.getSession();
      const told = new Promise(done => { first.on('session', done); });
      if (version === 'TLSv1.3') session = await within(told, 'a ticket');
      first.end();
      const second = await shake(server, { ...only, session });
      assert(second.isSessionReused(), version);
      second.destroy();
    }
    await assert.rejects(shake(server, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }));
  },

  async 'plain HTTP on a TLS port is told so'(t) {
    const server = await t.start('--tls-self-signed');
    const answer = await within(new Promise((done, fail) => { http.get(`http://${server.listen}/`, done).on('error', fail); }), 'an answer');
    assert.equal(answer.statusCode, 400);
    let body = '';
    for await (const text of answer) body += text;
    assert.match(body, /this port speaks TLS/);
  },
};
