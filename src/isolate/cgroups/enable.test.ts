/** Version 2 on the host's own hierarchy: a group below it behaves as the root that a container sees. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { enableControllers } from './enable.ts';
import { createGroup, removeGroups } from './group.ts';
import { readCgroupLayout, type CgroupLayout } from './layout.ts';

const { unified } = readCgroupLayout();
const read = (...path: string[]): string => readFileSync(join(...path), 'utf8').trim();

/** These may be handed down past processes, and so prove nothing here (cgroups(7), "threaded controllers"). */
const threaded = new Set(['', 'cpu', 'cpuset', 'perf_event', 'pids']);
/** A controller of the v2 hierarchy that may not, if there is one: hugetlb at least. */
const controller =
  unified &&
  read(unified.mount, 'cgroup.controllers')
    .split(' ')
    .find((name) => !threaded.has(name));
const skip =
  process.getuid?.() !== 0 ? 'needs root' : controller === undefined ? 'no controller is on v2' : false;

test('where processes are in the way of handing down they move one level down', { skip }, async () => {
  if (!unified || !controller) return;
  const control = join(unified.mount, 'cgroup.subtree_control');
  const before = read(control).split(' ').includes(controller);
  if (!before) writeFileSync(control, `+${controller}`);
  const root = join(unified.mount, `carrel-test-${randomBytes(4).toString('hex')}`);
  const sleeper = spawn('sleep', ['60'], { stdio: 'ignore' });
  try {
    mkdirSync(join(root, 'carrel-x/slots'), { recursive: true });
    writeFileSync(join(root, 'cgroup.procs'), String(sleeper.pid));
    assert.throws(() => writeFileSync(join(root, 'cgroup.subtree_control'), `+${controller}`), /EBUSY/);
    for (let time = 0; time < 2; time += 1) enableControllers(root, 'carrel-x/slots/0', [controller]);
    assert.equal(read(root, 'carrel-x/slots/cgroup.subtree_control'), controller);
    assert.equal(read(root, 'init/cgroup.procs'), String(sleeper.pid));
    assert.equal(read(root, 'cgroup.procs'), '');
    assert.throws(
      () => enableControllers(root, 'carrel-x/slots/0', ['nonsense']),
      (error) => isCarrelError(error, 'host_unsupported'),
    );
  } finally {
    sleeper.kill('SIGKILL');
    await once(sleeper, 'exit');
    await removeGroups([root]);
    if (!before) writeFileSync(control, `-${controller}`);
  }
});

test('a renewed group is another one, and knows that its limits are gone', { skip }, async () => {
  if (!unified) return;
  // takes part in v2 without any controller: so nothing has to be handed down
  const layout: CgroupLayout = { where: { freezer: unified }, unified };
  const path = `carrel-test-${randomBytes(4).toString('hex')}`;
  const group = createGroup(layout, path);
  try {
    writeFileSync(join(unified.mount, path, 'cgroup.max.depth'), '7');
    await group.renew();
    assert.equal(read(unified.mount, path, 'cgroup.max.depth'), 'max');
  } finally {
    await group.remove();
  }
});

test('a pure v2 host: each level hands down, then the group is made and limited', () => {
  const mount = mkdtempSync(join(tmpdir(), 'carrel-v2-'));
  try {
    const v2 = { version: 2, mount } as const;
    const layout: CgroupLayout = {
      where: { cpu: v2, cpuacct: v2, memory: v2, pids: v2, freezer: v2 },
      unified: v2,
    };
    for (const level of ['', 'carrel-x', 'carrel-x/slots']) {
      mkdirSync(join(mount, level), { recursive: true });
      writeFileSync(join(mount, level, 'cgroup.subtree_control'), 'memory');
    }
    const group = createGroup(layout, 'carrel-x/slots/3');
    for (const level of ['', 'carrel-x', 'carrel-x/slots'])
      assert.equal(read(mount, level, 'cgroup.subtree_control'), '+cpu +pids');
    assert.deepEqual([group.v1Procs, group.v2Directory], [[], join(mount, 'carrel-x/slots/3')]);
    group.limit({ memoryBytes: 10, processes: 2, cpus: 2 });
    assert.equal(read(mount, 'carrel-x/slots/3/memory.max'), '10');
    assert.equal(read(mount, 'carrel-x/slots/3/cpu.max'), '200000 100000');
  } finally {
    rmSync(mount, { recursive: true });
  }
});

test('a hierarchy that cannot be written says what to do', () => {
  const v2 = { version: 2, mount: '/etc/hostname' } as const;
  assert.throws(
    () => createGroup({ where: { memory: v2 }, unified: v2 }, 'carrel-x/slots/0'),
    (error) => isCarrelError(error, 'host_unsupported') && error.hint !== undefined,
  );
});
