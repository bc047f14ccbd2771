import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { parseCgroupLayout } from './layout.ts';
import { groupDirectories, limitsOutside, limitWrites, sharesOf, usageCounters } from './limits.ts';

const v1 = (mount: string, options: string): string =>
  `32 31 0:29 / ${mount} rw,relatime - cgroup cgroup ${options}`;
const v2 = (mount: string): string => `41 31 0:38 / ${mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw`;

test('on a pure v2 host every controller is in the one hierarchy', () => {
  const layout = parseCgroupLayout(v2('/sys/fs/cgroup'), () => 'cpuset cpu io memory pids');
  assert.equal(layout.where.memory?.version, 2);
  assert.equal(layout.where.cpuacct?.mount, '/sys/fs/cgroup');
  assert.deepEqual(groupDirectories(layout, 'carrel-x/a', ['cpu', 'memory', 'pids']), [
    '/sys/fs/cgroup/carrel-x/a',
  ]);
  assert.deepEqual(
    limitWrites(layout, 'g', { memoryBytes: 5, processes: 3, cpus: 0.5, cpuWeight: 70 }).map((w) => [
      w.path,
      w.text,
    ]),
    [
      ['/sys/fs/cgroup/g/memory.max', '5'],
      ['/sys/fs/cgroup/g/memory.swap.max', '0'],
      ['/sys/fs/cgroup/g/pids.max', '3'],
      ['/sys/fs/cgroup/g/cpu.max', '50000 100000'],
      ['/sys/fs/cgroup/g/cpu.weight', '70'],
    ],
  );
});

test('on a hybrid host each controller is looked up by itself', () => {
  const info = [
    v1('/sys/fs/cgroup/cpu', 'rw,cpu'),
    v1('/c\\040d/mem', 'rw,memory'),
    v2('/sys/fs/cgroup/unified'),
  ].join('\n');
  const layout = parseCgroupLayout(info, () => 'pids hugetlb');
  assert.equal(layout.where.cpu?.version, 1);
  assert.equal(layout.where.memory?.mount, '/c d/mem');
  assert.equal(layout.where.pids?.version, 2);
  assert.deepEqual(
    usageCounters(layout, 'g').find(({ name }) => name === 'oom'),
    { name: 'oom', path: '/c d/mem/g/memory.oom_control', key: 'oom_kill' },
  );
});

test('a controller-less v2 hierarchy beside v1 takes no part', () => {
  const info = [v1('/c/memory', 'rw,memory'), v2('/c/unified')].join('\n');
  const layout = parseCgroupLayout(info, () => 'hugetlb');
  assert.deepEqual(groupDirectories(layout, 'g', ['memory', 'cpuacct', 'freezer']), ['/c/memory/g']);
});

test('v1 memory and memory+swap are written in the order that the kernel accepts', () => {
  const layout = parseCgroupLayout(v1('/c', 'rw,memory'), () => '');
  const order = (from: number | undefined, to: number): string[] =>
    limitWrites(layout, 'g', { memoryBytes: to }, from === undefined ? {} : { memoryBytes: from }).map(
      ({ path }) => path.replace('/c/g/memory.', ''),
    );
  assert.deepEqual(order(undefined, 5), ['limit_in_bytes', 'memsw.limit_in_bytes']);
  assert.deepEqual(order(10, 5), ['limit_in_bytes', 'memsw.limit_in_bytes']);
  assert.deepEqual(order(5, 10), ['memsw.limit_in_bytes', 'limit_in_bytes']);
  assert.deepEqual(order(5, 5), []);
});

test('weights and shares agree at the default and stay in range', () => {
  assert.equal(sharesOf(100), 1024);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 10_000 }), (weight) => {
      const shares = sharesOf(weight);
      assert.ok(shares >= 2 && shares <= 262_144);
    }),
  );
});

test('any text is a layout', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => void parseCgroupLayout(text, () => text)));
});

test('a run on v2 dies together, and what it leaves behind when its group is renewed is known', () => {
  const pure = parseCgroupLayout(v2('/c'), () => 'cpu memory pids');
  const limits = { memoryBytes: 5, processes: 3, diesTogether: true };
  const paths = (layout: typeof pure, before = {}): string[] =>
    limitWrites(layout, 'g', limits, before).map(({ path }) => path.replace(/.*\/g\//, ''));
  assert.deepEqual(paths(pure), ['memory.max', 'memory.swap.max', 'pids.max', 'memory.oom.group']);
  assert.deepEqual(paths(pure, limits), []);
  assert.deepEqual(limitsOutside(pure, 2, limits), {});
  const hybrid = parseCgroupLayout([v1('/m', 'rw,memory'), v2('/c')].join('\n'), () => 'pids');
  assert.deepEqual(limitsOutside(hybrid, 2, limits), { memoryBytes: 5, diesTogether: true });
  assert.deepEqual(paths(hybrid, limitsOutside(hybrid, 2, limits)), ['pids.max']);
});
