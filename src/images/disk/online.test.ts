/** What is kept of online steps; machines that run them are tried out in src/machines/drivers/qemu/online.e2e.test.ts. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { scratch } from '../testing.ts';
import { type OnlineReport, type OnlineRunner, onlineSteps, readOnlineRecord, runOnline } from './online.ts';

const steps = [
  { argv: ['first'], seconds: 10 },
  { argv: ['second', 'x'], seconds: 10 },
];
const rest = { steps, append: 'quiet', agent: true, signal: undefined };
const saying =
  (...reports: readonly OnlineReport[]): OnlineRunner =>
  () =>
    Promise.resolve(reports);
const good = { status: 0, end: 'ended with 0', output: '', ms: 1.5 };

test('a recipe with online steps and nobody to run them is refused before any work', () => {
  assert.throws(
    () => onlineSteps([{ do: 'online', argv: ['true'], seconds: 1 }], undefined),
    (error) => isCarrelError(error, 'host_unsupported'),
  );
});

test('what the steps said is read again, shortened in the middle; without any there is nothing', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  assert.deepEqual(await readOnlineRecord(directory), []);
  const long = `begin${'x'.repeat(200_000)}end`;
  await runOnline(saying({ ...good, output: long }, { ...good, output: 'b' }), directory, rest);
  const [first, second] = await readOnlineRecord(directory);
  assert.deepEqual(second, { argv: ['second', 'x'], status: 0, ms: 2, output: 'b' });
  assert.match(first?.output ?? '', /^begin.*\n\[\d+ characters are not kept\]\n.*end$/);
  assert.ok((first?.output.length ?? 0) < 70_000);
});

test('a step that fails, or a machine that ends early, fails the build, and what was said stays', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  await assert.rejects(
    runOnline(saying(good, { ...good, status: 3, end: 'ended with 3', output: 'oh' }), directory, rest),
    (error) => isCarrelError(error, 'validation_failed') && /second x ended with 3/.test(error.message),
  );
  assert.match(await readFile(join(directory, 'online.json'), 'utf8'), /"output": "oh"/);
  await assert.rejects(
    runOnline(saying({ ...good, status: null, end: 'was ended after 10 s' }), directory, rest),
    (error) => isCarrelError(error, 'helper_failed') && /first was ended after 10 s/.test(error.message),
  );
  await assert.rejects(runOnline(saying(good), directory, rest), /after 1 of 2 steps/);
});
