// The delivery ledger in /metrics, read as an accountant would.
import { assert, until } from './harness.mjs';

/** kind → { offered, delivered, skipped, undelivered, pending }. */
export async function ledger(server) {
  const accounts = new Map();
  for (const [name, value] of await server.metrics()) {
    const kind = /kind="(\w+)"/.exec(name)?.[1];
    if (!name.startsWith('tidewheel_ledger_') || !kind) continue;
    const account = accounts.get(kind) ?? { offered: 0, delivered: 0, skipped: 0, undelivered: 0, pending: 0 };
    accounts.set(kind, account);
    account[/outcome="(\w+)"/.exec(name)?.[1] ?? 'pending'] += value;
  }
  return accounts;
}

export const difference = ({ offered, delivered, skipped, undelivered, pending }) => offered - delivered - skipped - undelivered - pending;

/** Offered is the sum of the outcomes now, and nothing stays pending once the clients are gone. */
export async function settled(server) {
  const accounts = await ledger(server);
  assert(accounts.size > 0, 'no ledger in /metrics');
  for (const [kind, account] of accounts) assert.equal(difference(account), 0, `${kind}: ${JSON.stringify(account)}`);
  await until(async () => [...(await ledger(server)).values()].every(account => account.pending === 0), 'pending frames to settle');
}
