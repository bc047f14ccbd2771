import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { select } from './files.ts';
import { runTests } from './run.ts';
import { lastLine } from './tally.ts';

test('end-to-end tests come last, and can be left out', () => {
  const paths = ['test/a.e2e.test.ts', 'src/b.test.ts', 'src/a.test.ts'];
  assert.deepEqual(select(paths, {}), ['src/a.test.ts', 'src/b.test.ts', 'test/a.e2e.test.ts']);
  assert.deepEqual(select(paths, { onlyUnit: true }), ['src/a.test.ts', 'src/b.test.ts']);
  assert.deepEqual(select(paths, { filters: ['./src/b'] }), ['src/b.test.ts']);
});

test('the last line leaves skips out where there are none', () => {
  assert.equal(lastLine({ passed: 3, failed: 0, skipped: 0 }), '3 passed, 0 failed');
  assert.equal(lastLine({ passed: 3, failed: 1, skipped: 2 }), '3 passed, 1 failed, 2 skipped');
});

const source = `import { suite, test } from 'node:test';
test('right', () => {});
test('wrong', () => { throw new Error('on purpose'); });
test('left out', { skip: 'needs a moon' }, () => {});
suite('several', () => {
  test('one', () => {});
  test('two', () => { throw new Error('inside'); });
});
`;

test('leaves are counted: passes, failures with their message, skips with their reason, broken files', async (context) => {
  // the runner refuses to run inside one of its own test processes
  const { NODE_TEST_CONTEXT: inside } = process.env;
  delete process.env['NODE_TEST_CONTEXT'];
  const root = await mkdtemp(join(tmpdir(), 'carrel-tally-'));
  context.after(async () => {
    if (inside !== undefined) process.env['NODE_TEST_CONTEXT'] = inside;
    await rm(root, { recursive: true });
  });
  await writeFile(join(root, 'a.test.mjs'), source);
  await writeFile(join(root, 'b.test.mjs'), 'throw new Error("cannot be loaded");\n');
  const failed: string[] = [];
  const tally = await runTests({
    root,
    files: ['a.test.mjs', 'b.test.mjs'],
    concurrency: 2,
    onFailure: ({ name }) => failed.push(name),
  });
  assert.equal(lastLine(tally), '2 passed, 3 failed, 1 skipped');
  assert.deepEqual([...tally.skips], [['needs a moon', ['a.test.mjs: left out']]]);
  assert.match(tally.failures.find(({ name }) => name === 'two')?.message ?? '', /inside/);
  assert.equal(failed.length, 3);
});
