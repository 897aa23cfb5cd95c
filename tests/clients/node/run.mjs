// node run.mjs <tidewheel binary> [word …]: every case, or those whose name has one of the words.
// One line a case, a summary, exit code 1 where a case failed.
import { Case, Server } from './harness.mjs';
import conversation from './cases/conversation.mjs';
import positions from './cases/positions.mjs';
import edges from './cases/edges.mjs';
import authentication from './cases/authentication.mjs';
import pressure from './cases/pressure.mjs';
import reload from './cases/reload.mjs';
import rules from './cases/rules.mjs';
import hooks from './cases/hooks.mjs';
import ending from './cases/ending.mjs';
import tls from './cases/tls.mjs';
import page, { close as closeBrowser } from './cases/page.mjs';
import dashboard from './cases/dashboard.mjs';

const CASE_MS = 90_000;
const [binary, ...words] = process.argv.slice(2);
if (!binary) { console.error('usage: node run.mjs <tidewheel binary> [word …]'); process.exit(2); }

async function run(name, body, server) {
  const context = new Case(binary, server);
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`not done after ${CASE_MS} ms`)), CASE_MS); });
  const begun = performance.now();
  let fault = null;
  try { await Promise.race([body(context), late]); } catch (error) { fault = error; } finally { clearTimeout(timer); }
  try { await context.end(); } catch (error) { fault ??= error; }
  console.log(`${fault ? 'FAIL' : 'ok  '} ${name} (${Math.round(performance.now() - begun)} ms)`);
  if (fault) console.log(String(fault.stack ?? fault).split('\n').slice(0, 14).map(line => `       ${line}`).join('\n'));
  return !fault;
}

const all = {
  ...conversation, ...positions, ...edges, ...authentication, ...pressure, ...reload, ...rules, ...hooks, ...ending, ...tls, ...page, ...dashboard,
};
const cases = Object.entries(all)
  .filter(([name]) => !words.length || words.some(word => name.includes(word)));
const server = await Server.start(binary);
const failed = [];
for (const [name, body] of cases) if (!await run(name, body, server)) failed.push(name);
// After all of that: every frame that was ever offered has ended in exactly one way.
if (!await run('the shared server’s ledger balances to zero after all cases', async t => (await import('./ledger.mjs')).settled(t.server), server)) failed.push('ledger');
await closeBrowser();
const end = await server.stop();
if (end?.code !== 0) { failed.push('exit code'); console.log(`FAIL the shared server ended with ${JSON.stringify(end)}\n${server.output}`); }
console.log(`${cases.length + 1 - failed.length} passed, ${failed.length} failed${failed.length ? `: ${failed.join('; ')}` : ''}`);
process.exit(failed.length ? 1 : 0);
