// What may change while the server runs: keys, rules and origins, with nobody disconnected.
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, Client, until } from '../harness.mjs';

const base64 = value => Buffer.from(JSON.stringify(value)).toString('base64url');
const secret = word => `a secret of the tests, and it is the ${word} one of them`;

function token(sub, word) {
  const text = `${base64({ alg: 'HS256' })}.${base64({ sub, exp: Math.floor(Date.now() / 1000) + 600 })}`;
  return `${text}.${createHmac('sha256', secret(word)).update(text).digest('base64url')}`;
}

async function start(t) {
  const folder = mkdtempSync(join(tmpdir(), 'tidewheel-reload-'));
  t.open.push(() => rmSync(folder, { recursive: true }));
  const [config, key] = [join(folder, 'tidewheel.toml'), join(folder, 'secret')];
  writeFileSync(key, secret('first'));
  const write = more => writeFileSync(config, `auth = "jwt"\njwt-key-file = ["${key}"]\n${more}`);
  write('');
  return { server: await t.start('--config', config), key, write };
}

/** What comes of a token: the type of the first message, or the code of the close. */
async function enter(t, server, token) {
  const client = new Client(server.ws(), { headers: { authorization: `Bearer ${token}` } });
  t.open.push(() => client.socket.terminate());
  const said = await Promise.race([client.take('connection_established'), client.closed]);
  return { client, came: said.type ?? said.code };
}

export default {
  async 'a changed key is taken over by itself, a broken one is not, and who is in stays in'(t) {
    const { server, key } = await start(t);
    const ann = await enter(t, server, token('ann', 'first'));
    assert.equal(ann.came, 'connection_established');
    writeFileSync(key, 'short');
    await until(() => server.output.includes('nothing is reloaded'), 'the refusal', 10_000);
    assert.equal((await enter(t, server, token('bob', 'first'))).came, 'connection_established');
    writeFileSync(key, secret('second'));
    const isTaken = async () => (await enter(t, server, token('cy', 'second'))).came !== 4002;
    await until(isTaken, 'the second key', 10_000);
    assert.equal((await enter(t, server, token('dee', 'first'))).came, 4002);
    assert.equal((await ann.client.ask({ type: 'ping', payload: 1 })).type, 'pong');
  },

  async 'SIGHUP takes over rules, limits and origins, and names what it cannot'(t) {
    const { server, write } = await start(t);
    const { client: ann } = await enter(t, server, token('ann', 'first'));
    await ann.join('lobby');
    write('history = 7\nlimit-connection-messages = "1/m"\n[[rooms]]\npattern = "lobby"\npublish = "server"\n');
    server.child.kill('SIGHUP');
    await until(() => server.output.includes('reloaded'), 'the reload', 10_000);
    assert.match(server.output, /--history is another, which takes effect at the next start/);
    await ann.refusal({ type: 'message', room: 'lobby', payload: 1 }, 4010);
    const { client: bob } = await enter(t, server, token('bob', 'first'));
    await bob.ask({ type: 'ping' });
    await bob.refusal({ type: 'message', room: 'other', payload: 1 }, 4004);
    write('no-such-key = 1\n');
    server.child.kill('SIGHUP');
    await until(() => server.output.includes('no-such-key'), 'the refusal', 10_000);
    const { client: cy } = await enter(t, server, token('cy', 'first'));
    await cy.refusal({ type: 'message', room: 'lobby', payload: 1 }, 4010);
  },
};
