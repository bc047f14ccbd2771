import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseMountinfo } from '../mounts.ts';
import { locateControllers } from './cgroups.ts';
import { judgeMounting } from './mounting.ts';
import { judgeLimits, subordinateIds } from './namespaces.ts';
import { availableMemory, judgeMemory } from './resources.ts';
import { judgePtrace, judgeSeccomp } from './security.ts';
import { parsePackages } from './tools.ts';

const v1 = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
34 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
36 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
37 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
38 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd`;
const v2 = `35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot`;
const hybrid = `${v1
  .split('\n')
  .filter((line) => !/freezer|blkio|pids/.test(line))
  .join('\n')}
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw`;

/** `cpu:v1 memory:v2 ...`, as short as a test wants it. */
function where(mountinfo: string, controllers = ''): string {
  return locateControllers(parseMountinfo(mountinfo), () => controllers)
    .map(({ name, version }) => `${name}:${version}`)
    .join(' ');
}

suite('cgroup controllers are found one by one', () => {
  test('on a v1 host', () => {
    assert.equal(where(v1), 'cpu:v1 memory:v1 pids:v1 cpuset:v1 io:v1 freezer:v1');
  });
  test('on a v2 host', () => {
    assert.equal(
      where(v2, 'cpuset cpu io memory hugetlb pids rdma misc\n'),
      'cpu:v2 memory:v2 pids:v2 cpuset:v2 io:v2 freezer:v2',
    );
  });
  test('on a hybrid, where v2 has some of them', () => {
    assert.equal(where(hybrid, 'hugetlb pids'), 'cpu:v1 memory:v1 pids:v2 cpuset:v1 io:absent freezer:v2');
  });
  test('on a host without any', () => {
    assert.equal(
      where('22 1 254:1 / / rw - ext4 /dev/vda1 rw'),
      'cpu:absent memory:absent pids:absent cpuset:absent io:absent freezer:absent',
    );
  });
});

suite('limits on user namespaces', () => {
  const none = { max: null, unprivileged: null, apparmor: null };
  for (const [limits, state] of [
    [none, 'ok'],
    [{ ...none, max: 96_365 }, 'ok'],
    [{ ...none, max: 0 }, 'missing'],
    [{ ...none, max: 10 }, 'degraded'],
    [{ ...none, unprivileged: 0 }, 'degraded'],
    [{ ...none, apparmor: 1 }, 'degraded'],
  ] as const)
    test(`${JSON.stringify(limits)} is ${state}`, () => {
      const finding = judgeLimits(limits);
      assert.equal(finding.state, state);
      assert.equal(finding.remedy === undefined, state === 'ok');
    });

  test('subordinate ids are found by name or number', () => {
    const text = 'ada:100000:65536\n1001:165536:1000\n\nbroken\n';
    assert.equal(subordinateIds(text, 'ada', 1000), 65_536);
    assert.equal(subordinateIds(text, 'bob', 1001), 1000);
    assert.equal(subordinateIds(text, 'eve', 1002), 0);
  });
});

test('a kernel without overlay cannot run Carrel, one without idmapped mounts can', () => {
  const no = { ok: false, said: 'mount: ENODEV' };
  const yes = { ok: true, said: '' };
  const [overlay, userxattr, idmapped] = judgeMounting({ overlay: no, userxattr: yes, idmapped: no }, true);
  assert.deepEqual(
    [overlay?.state, overlay?.required, userxattr?.state, idmapped?.state],
    ['missing', true, 'ok', 'degraded'],
  );
});

test('seccomp needs kill_process; ptrace at level 2 closes strace', () => {
  assert.equal(judgeSeccomp('kill_process kill_thread trap errno user_notif trace log allow\n').state, 'ok');
  assert.equal(judgeSeccomp('kill_thread trap errno trace allow\n').state, 'missing');
  assert.equal(judgeSeccomp(undefined).state, 'missing');
  assert.equal(judgePtrace(undefined).state, 'ok');
  assert.equal(judgePtrace('1\n').state, 'ok');
  assert.equal(judgePtrace('3\n').state, 'degraded');
});

test('memory and packages are read from their tables', () => {
  assert.equal(availableMemory('MemTotal: 100 kB\nMemAvailable:   2048 kB\n'), 2 * 2 ** 20);
  assert.equal(judgeMemory(2 ** 29).state, 'degraded');
  assert.deepEqual(parsePackages('# package proof\n\nzstd  /usr/bin/zstd   packed images\n'), [
    { name: 'zstd', proof: '/usr/bin/zstd', reason: 'packed images' },
  ]);
});
