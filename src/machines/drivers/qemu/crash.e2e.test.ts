/**
 * A worker is killed with SIGKILL at every step of a virtual machine's life: prepare, start, snapshot, clone, stop,
 * restore, remove. What it leaves is whole, never runs twice, and can be gone on with. CARREL_VM_CRASH_ROUNDS sets the
 * number of rounds.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { sleep, until, within } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { isLocked } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';
import { linkNames } from '#test/netbed.ts';
import type { MachineSpec } from '../../driver.ts';
import { openDisk } from './disk/disk.ts';
import { layerPath, loadState } from './disk/files.ts';
import { makeVmBed, skip, type VmBed } from './testing.ts';

const rounds = Number(process.env['CARREL_VM_CRASH_ROUNDS'] ?? 12);
const steps = [
  'prepare',
  'start',
  'snapshot',
  'pause',
  'clone',
  'stop',
  'restore',
  'drop',
  'remove',
] as const;
/** Longer than a step mostly takes. */
const longestMs = 400;

let bed: VmBed;
before(async () => {
  if (!skip) bed = await makeVmBed();
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

/** Lets a worker live until some moment after it has begun the step. */
async function crashAt(step: string, specs: readonly MachineSpec[]): Promise<void> {
  const { directory, instance } = bed.host;
  const socket = join(directory, '..', 'worker.sock');
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'crashing.ts'), JSON.stringify({ directory, instance, socket, specs })],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const exit = once(child, 'exit');
  const begun = Promise.withResolvers<void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === step) begun.resolve();
  });
  const early = exit.then(() => assert.fail('the worker ended by itself'));
  await within(60_000, `the step ${step}`, Promise.race([begun.promise, early]));
  await sleep(Math.random() * longestMs);
  child.kill('SIGKILL');
  await exit;
}

/** Processes of the machine's user: QEMU, and qemu-img that merges its layers, also one that is being ended. */
function processesOf({ uidSlot }: MachineSpec, name = ''): number[] {
  const uid = 1_000_000 + uidSlot * 65_536 + 1;
  const wanted = new RegExp(`^Name:\\t${name}[^]*^Uid:\\t${uid}\\t`, 'm');
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return wanted.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return false;
      }
    })
    .map(Number);
}

const copiesOf = (spec: MachineSpec): number[] => processesOf(spec, 'qemu-system');

/** Also a qemu-img that was broken off, which is init's to reap. */
async function untilGone(spec: MachineSpec): Promise<void> {
  await until(5000, 'all its processes to be gone', () =>
    processesOf(spec).length === 0 ? true : undefined,
  );
}

/** A merge that was cut off leaves clusters that nobody uses (status 3 of qemu-img(1)); whatever else is wrong, is. */
async function checkLayer(path: string): Promise<void> {
  const { status } = await launch(['qemu-img', 'check', '-q', '-f', 'qcow2', path]);
  assert.ok(status === 0 || status === 3, `${path}: ${status}`);
}

/** What is there is whole. */
async function check(spec: MachineSpec): Promise<void> {
  const copies = copiesOf(spec);
  assert.ok(copies.length <= 1, `${copies.length} copies of one machine run`);
  const machine = await bed.driver.adopt(spec);
  if (machine) assert.deepEqual(copies, [machine.process.pid], 'what runs is what is adopted');
  // one that was ending while it was looked for
  else await untilGone(spec);
  const state = await loadState(spec.directory);
  if (state) {
    // also settles what was cut off
    for (const layer of await openDisk(spec.directory))
      assert.ok(existsSync(layerPath(spec.directory, layer)));
    const now = await loadState(spec.directory);
    assert.equal(now?.pending, null);
    for (const layer of Object.keys(now?.layers ?? {}).map(Number)) {
      const path = layerPath(spec.directory, layer);
      assert.ok(existsSync(path), `${path} is missing`);
      // one that is open may have tables that are not written yet
      if (!machine) await checkLayer(path);
    }
  }
  machine?.release();
}

/** The next worker does the whole of it; then nothing is left. */
async function goOn(spec: MachineSpec, copy: MachineSpec): Promise<void> {
  const { driver } = bed;
  await driver.prepare(spec);
  const machine = await driver.start(spec);
  assert.deepEqual(copiesOf(spec), [machine.process.pid]);
  if (machine.isPaused()) await machine.resume();
  await driver.snapshot(spec, 's-after', machine);
  await machine.stop({ graceMs: 0 });
  machine.release();
  for (const each of [copy, spec]) {
    await driver.tidy(each);
    await driver.remove(each);
    assert.equal(existsSync(each.directory), false);
    await untilGone(each);
  }
  assert.deepEqual([...(await driver.traces())], []);
  assert.deepEqual(
    linkNames().filter((name) => name.startsWith('t-')),
    [],
  );
}

test(
  'whenever a worker is killed, the next one finds or makes everything right',
  { skip, timeout: 3_600_000 },
  async (t) => {
    const specs = [bed.spec(), bed.spec()];
    const [spec, copy] = specs;
    assert.ok(spec && copy);
    for (let round = 0; round < rounds; round += 1) {
      const step = steps[round % steps.length] ?? 'start';
      await crashAt(step, specs);
      // keepers of runs that were not kept yet die with the fork server's client
      await until(20_000, 'what was not kept to end', () =>
        copiesOf(spec).length === 0 || isLocked(keptPaths(spec.directory).lock) ? true : undefined,
      );
      await t.test(`round ${round + 1}, at ${step}`, async () => {
        await check(spec);
        await check(copy);
        await goOn(spec, copy);
      });
    }
  },
);
