/** The host's disk is full: a virtual machine waits, says why, outlives the daemon, and goes on without a loss. */
import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep, until } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { launchOk } from '#host/launch.ts';
import { waitForJob } from '#jobs/wait.ts';
import { skip } from './drivers/qemu/testing.ts';
import { type Bed, request, startBed } from './testing.ts';

/** A guest under emulation, on a host with other things to do. */
const patienceMs = 180_000;
const MiB = 2 ** 20;

/** The machines' directory on a file system of its own. */
async function limited({
  dataDirectory,
}: Bed): Promise<AsyncDisposable & { size(mib: number): Promise<void> }> {
  const place = join(dataDirectory, 'machines');
  await launchOk(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', place]);
  chmodSync(place, 0o711);
  return {
    size: async (mib) => void (await launchOk(['mount', '-o', `remount,size=${mib}m`, place])),
    [Symbol.asyncDispose]: async () => void (await launchOk(['umount', place])),
  };
}

test('a machine whose write finds no room waits for it, and nothing is lost', { skip }, async () => {
  await using bed = await startBed();
  await bed.images.ensure('tiny');
  const anna = await bed.user('anna', { admin: true });
  await using disk = await limited(bed);
  const { machineId: id, job } = await bed.machines.create(
    anna,
    request({
      driver: 'qemu',
      image: 'tiny',
      limits: { cpus: 1, memoryBytes: 128 * MiB, processes: 64, diskBytes: 300 * MiB },
    }),
  );
  const made = await waitForJob(bed.store, job.id, { limitMs: patienceMs, pollMs: 100 });
  assert.equal(made.state, 'done', JSON.stringify(made.error));

  const script =
    'i=0; while [ $i -lt 40 ]; do head -c 1048576 /dev/urandom; i=$((i+1)); done | tee /root/big | sha256sum; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/big';
  const begin = async (command: string): Promise<string> => {
    const argv = ['sh', '-c', command];
    return (await bed.machines.createExec(anna, id, { argv, env: {}, cwd: '/', user: 'root', tty: null })).id;
  };
  const untilState = (what: string, state: 'running' | 'paused', code?: string) =>
    until(
      patienceMs,
      what,
      async () => {
        const machine = await bed.machines.get(id);
        return machine.state === state && machine.failure?.code === code ? machine : undefined;
      },
      { everyMs: 100 },
    );
  const untilEnded = async (exec: string): Promise<void> => {
    const ended = await until(
      patienceMs,
      'the program to end',
      async () => (await bed.machines.getExec(id, exec)).end ?? undefined,
      { everyMs: 200 },
    );
    assert.deepEqual(ended, { kind: 'exited', status: 0 });
  };
  const exec = await begin(script);
  const paused = await untilState('the machine to wait', 'paused', 'disk_full');
  assert.match(paused.failure?.hint ?? '', /make room on the host/);

  await bed.suspend();
  await bed.resume();
  const still = await bed.machines.get(id);
  assert.deepEqual([still.state, still.failure?.code], ['paused', 'disk_full']);

  await disk.size(300);
  await untilState('the machine to go on', 'running');
  await untilEnded(exec);
  const { bytes } = await bed.machines.execOutput(id, exec);
  const [written, read] = Buffer.from(bytes).toString().trim().split('\n');
  assert.equal(read, written, 'what was written before and after is there');
  const { stdout } = await bed.machines.run(id, runRequest.parse({ argv: ['dmesg'], cwd: '/' }));
  assert.doesNotMatch(Buffer.from(stdout, 'base64').toString(), /I\/O error/);

  // now somebody wants it paused, whatever room the disk has
  await disk.size(52);
  const more = await begin('head -c 25165824 /dev/urandom >/root/more && sync');
  await untilState('the machine to wait once more', 'paused', 'disk_full');
  await bed.done(bed.machines.pause(anna, id));
  await disk.size(300);
  await sleep(2000); // several looks
  const kept = await bed.machines.get(id);
  assert.deepEqual([kept.state, kept.failure], ['paused', null]);
  await bed.done(bed.machines.resume(anna, id));
  await untilEnded(more);
  const events = await bed.store.db
    .selectFrom('events')
    .select('kind')
    .where('subject', '=', id)
    .orderBy('seq')
    .execute();
  assert.deepEqual(
    events.map(({ kind }) => kind).filter((kind) => /stalled|paused|resumed/.test(kind)),
    ['machine.stalled', 'machine.resumed', 'machine.stalled', 'machine.paused', 'machine.resumed'],
  );
  await waitForJob(bed.store, (await bed.machines.remove(anna, id)).job.id, { limitMs: patienceMs });
});
