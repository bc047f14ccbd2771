/**
 * Runs and machines placed in version 2, on any host: birth in the group, processor time, freezing and killing need
 * no controller, so this works beside version 1 too. Memory and process limits are in cgroups/*.test.ts.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { readCgroupLayout, type CgroupLayout } from './cgroups/layout.ts';
import { collect } from './live.ts';
import { keptPaths, machineGroup, releaseMachine } from './kept.ts';
import { startContainer } from './machine.ts';
import { openSandboxes } from './sandbox.ts';
import { makeBed, noTrace, runIn, skip as cannot } from './testing.ts';

const { unified } = readCgroupLayout();
const skip = cannot || (unified ? false : 'no cgroup v2 is mounted');
const layout: CgroupLayout = { where: unified ? { cpuacct: unified, freezer: unified } : {}, unified };

test('on v2 each run is born in a group of its own, and counted by itself', { skip }, async () => {
  if (!unified) return;
  await using bed = await makeBed();
  await using sandboxes = await openSandboxes({
    server: bed.server,
    instance: bed.instance,
    slots: 1,
    layout,
  });
  const spin = { root: bed.root, argv: ['/bin/sh', '-c', 'while :; do :; done'], limits: { cpuMs: 300 } };
  const busy = await sandboxes.run(spin);
  assert.deepEqual(busy.end, { kind: 'killed', reason: 'cpu' });
  assert.ok(busy.usage.cpuMs >= 300);
  const group = join(unified.mount, `carrel-${bed.instance}/slots/0`);
  const total = (): number =>
    Number(/usage_usec (\d+)/.exec(readFileSync(join(group, 'cpu.stat'), 'utf8'))?.[1]);
  assert.ok(total() >= 300_000);
  const short = await sandboxes.run({ root: bed.root, argv: ['/bin/true'] });
  assert.deepEqual(short.end, { kind: 'exited', status: 0 });
  assert.ok(total() < 300_000, 'the group is a new one');
  await sandboxes.close();
  assert.ok(!existsSync(group));
});

test(
  'on v2 a machine and its commands are in its group, which freezes and kills them',
  { skip },
  async () => {
    if (!unified) return;
    await using bed = await makeBed();
    const directory = join(bed.directory, 'm-v2');
    mkdirSync(join(directory, 'storage'), { recursive: true, mode: 0o700 });
    const keeper = await startContainer(
      bed.server,
      {
        id: 'm-v2',
        hostname: 'lab',
        directory,
        lower: bed.root,
        upper: { kind: 'directory', path: join(directory, 'storage') },
        uidBase: 0x6001_0000,
        init: [],
        limits: { cpus: 1, memoryBytes: 1 << 26, processes: 40 },
      },
      { instance: bed.instance, layout },
    );
    try {
      const group = machineGroup(bed.instance, 'm-v2', layout);
      const members = (): number[] =>
        readFileSync(join(group.v2Directory ?? '', 'cgroup.procs'), 'utf8')
          .split('\n')
          .filter(Boolean)
          .map(Number);
      assert.ok(members().includes(keeper.initPid));
      assert.equal((await runIn(keeper, 'cat /proc/self/cgroup | grep ^0:')).out, '0::/\n');
      const sleeping = await keeper.exec({ argv: ['sleep', '8299'] });
      const ended = assert.rejects(collect(sleeping));
      await until(5000, 'the command to be there', () => (members().length >= 4 ? true : undefined));
      await group.freeze(true);
      assert.match(readFileSync(join(group.v2Directory ?? '', 'cgroup.events'), 'utf8'), /frozen 1/);
      await releaseMachine(bed.instance, 'm-v2', layout); // frozen or not
      await ended;
      assert.ok(!existsSync(group.v2Directory ?? ''));
      assert.equal((await keeper.ended()).signal, 'SIGKILL');
    } finally {
      keeper.close();
      await releaseMachine(bed.instance, 'm-v2', layout);
      const { lock } = keptPaths(directory);
      await until(5000, 'the keeper to end', () => (isLocked(lock) ? undefined : true));
      await noTrace(bed.instance);
    }
  },
);
