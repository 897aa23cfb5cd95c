// The demo page's content security policy names the hashes of its one script and one style sheet.
// `node page_hashes.mjs` checks them, `node page_hashes.mjs --write` sets them after an edit.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const PAGE = fileURLToPath(new URL('../../../src/page/index.html', import.meta.url));

/** The page as it should be: the same text with the right hashes in its policy. */
export function withHashes(html) {
  for (const tag of ['script', 'style']) {
    const inner = new RegExp(`<${tag}>([^]*?)</${tag}>`).exec(html)[1];
    const hash = createHash('sha256').update(inner).digest('base64');
    html = html.replace(new RegExp(`${tag}-src 'sha256-[^']*'`), `${tag}-src 'sha256-${hash}'`);
  }
  return html;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const html = readFileSync(PAGE, 'utf8');
  const right = withHashes(html);
  if (process.argv.includes('--write')) writeFileSync(PAGE, right);
  else if (right !== html) {
    console.error(`${PAGE}: the policy's hashes are stale; run this with --write`);
    process.exitCode = 1;
  }
}
