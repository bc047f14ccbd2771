import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { cliMarkdown } from './docs.ts';

test('docs/cli.md says what the table of commands says', async () => {
  const written = await readFile(new URL('../../docs/cli.md', import.meta.url), 'utf8');
  assert.equal(written, cliMarkdown(), 'make it anew with: node .ci/write-docs.ts');
});
