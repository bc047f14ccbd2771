/** The grading sandbox against what a student may hand in. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { createGroup, sweepGroups } from './cgroups/group.ts';
import { readCgroupLayout } from './cgroups/layout.ts';
import { op } from './plan.ts';
import { openSandboxes, type SandboxReport, type SandboxSpec, type Sandboxes } from './sandbox.ts';
import { isolateBinary } from './server.ts';
import { gone, makeBed, makeRoot, processesWith, skip, type IsolationBed } from './testing.ts';

const MiB = 1 << 20;

const reasonOf = ({ end }: SandboxReport): string =>
  end.kind === 'killed' ? end.reason : JSON.stringify(end);

/** Tries one system call after the other and prints name and errno: compiled once, static. */
const probeSource = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/file.h>
#include <unistd.h>
static void show(const char *name, long result) { printf("%s %s\\n", name, result < 0 ? strerrorname_np(errno) : "ok"); }
int main(void) {
  struct flock lock = { .l_type = F_RDLCK };
  int self = open("/proc/self/exe", O_RDONLY);
  show("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
  show("unshare", unshare(CLONE_NEWUSER));
  show("clone-user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
  show("clone3", syscall(SYS_clone3, 0, 0));
  show("setns", syscall(SYS_setns, self, 0));
  show("keyctl", syscall(SYS_keyctl, 0, 0));
  show("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
  show("io_uring", syscall(SYS_io_uring_setup, 1, 0));
  show("bpf", syscall(SYS_bpf, 0, 0, 0));
  show("perf", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
  show("userfaultfd", syscall(SYS_userfaultfd, 0));
  show("x32", syscall(0x40000000 | SYS_getpid));
  show("cachestat", syscall(451, self, 0, 0, 0));
  show("open-tree-attr", syscall(467, -100, "/", 0, 0, 0));
  show("of-later-kernels", syscall(600));
  show("vsock", socket(40, SOCK_STREAM, 0));
  show("flock", flock(self, LOCK_SH));
  show("fcntl-lock", fcntl(self, F_SETLK, &lock));
  show("lease", fcntl(self, F_SETLEASE, F_RDLCK));
  show("ptrace-init", ptrace(PTRACE_ATTACH, 1, 0, 0));
  show("kill-init", syscall(SYS_kill, 1, 9));
  show("proc-sys", open("/proc/sys/kernel/hostname", O_RDONLY));
  show("kcore", open("/proc/kcore", O_RDONLY));
  show("sysrq", open("/proc/sysrq-trigger", O_WRONLY));
  show("init-mem", open("/proc/1/mem", O_RDONLY));
  show("mknod", syscall(SYS_mknod, "/work/disk", 0060666, 0x800));
  show("chroot", chroot("/work"));
  show("setuid", setuid(0));
  show("write-root", open("/written", O_CREAT | O_WRONLY, 0600));
  show("write-dev", open("/dev/written", O_CREAT | O_WRONLY, 0600));
  show("write-input", open("/inputs/a", O_WRONLY));
  show("dup-fd-9", fcntl(9, F_GETFD));
  show("work", open("/work/fine", O_CREAT | O_WRONLY, 0600));
  fflush(stdout);
  __asm__ volatile("int $0x80" : : "a"(20));
  puts("int80 ok");
  return 0;
}`;

describe('the sandbox', { skip }, () => {
  let bed: IsolationBed;
  let sandboxes: Sandboxes;
  before(async () => {
    bed = await makeBed();
    sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 2 });
  });
  after(async () => {
    await sandboxes.close();
    await bed[Symbol.asyncDispose]();
  });

  const sh = (script: string, more: Partial<SandboxSpec> = {}): Promise<SandboxReport> =>
    sandboxes.run({ root: bed.root, argv: ['sh', '-c', script], ...more });
  const fixture = (name: string, text: string, mode = 0o644): string => {
    const path = join(bed.directory, name);
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  };

  test('gives output, status and usage of a program', async () => {
    const report = await sh('echo out; echo err >&2; exit 3');
    assert.deepEqual(report.end, { kind: 'exited', status: 3 });
    assert.equal(report.stdout.toString(), 'out\n');
    assert.equal(report.stderr.toString(), 'err\n');
    assert.ok(report.usage.wallMs > 0 && report.usage.cpuMs > 0);
    assert.equal(report.usage.oomKills, 0);
  });

  test('tells a death by signal from an exit, even of the program itself', async () => {
    assert.deepEqual((await sh('kill -SEGV $$')).end, { kind: 'signaled', signal: 'SIGSEGV' });
    assert.deepEqual((await sh('exit 139')).end, { kind: 'exited', status: 139 });
  });

  test('a program that is not there exits with 127 and a sentence', async () => {
    const report = await sandboxes.run({ root: bed.root, argv: ['./a.out'] });
    assert.deepEqual(report.end, { kind: 'exited', status: 127 });
    assert.match(report.stderr.toString(), /a\.out: No such file/);
  });

  test('passes input, arguments, variables and a result', async () => {
    const report = await sandboxes.run({
      root: bed.root,
      argv: ['sh', '-c', 'cat; echo "$0|$1|$X|$HOME"; printf "\\001\\000\\002" >&3', 'a b', '*'],
      env: { X: 'y z' },
      stdin: Buffer.from('first\n'),
      result: true,
    });
    assert.equal(report.stdout.toString(), 'first\na b|*|y z|/work\n');
    assert.deepEqual([...report.result], [1, 0, 2]);
  });

  test('a megabyte of input goes through, read or not', async () => {
    const stdin = Buffer.alloc(MiB, 'x');
    assert.equal((await sh('wc -c', { stdin })).stdout.toString().trim(), String(MiB));
    assert.deepEqual((await sh('exit 0', { stdin })).end, { kind: 'exited', status: 0 });
  });

  test('binds inputs read-only and copies trees into the work directory', async () => {
    const tree = join(bed.directory, 'tree');
    mkdirSync(join(tree, 'sub'), { recursive: true, mode: 0o700 });
    writeFileSync(join(tree, 'sub/run.sh'), '#!/bin/sh\necho ran\n', { mode: 0o700 });
    symlinkSync('sub/run.sh', join(tree, 'link'));
    const report = await sh(
      'cat /inputs/deep/data; echo x > /inputs/deep/data; ./a/b/link; id -u; ls -ld a',
      {
        inputs: [{ host: fixture('data', 'given\n'), guest: '/inputs/deep/data' }],
        work: [{ host: tree, guest: 'a/b' }],
      },
    );
    assert.match(report.stdout.toString(), /^given\nran\n1000\ndrwxr-xr-x .* 1000 +1000 /);
    assert.match(report.stderr.toString(), /Read-only file system/);
    assert.equal(readFileSync(join(bed.directory, 'data'), 'utf8'), 'given\n');
  });

  test('paths that leave their place are refused', async () => {
    for (const more of [
      { inputs: [{ host: '/etc/passwd', guest: '/../x' }] },
      { inputs: [{ host: '/etc/passwd', guest: 'x' }] },
      { work: [{ host: '/etc/passwd', guest: '../x' }] },
      { work: [{ host: '/etc/passwd', guest: '/x' }] },
      { collect: [{ path: '../x', maxBytes: 1 }] },
    ])
      await assert.rejects(sh('true', more), (error) => isCarrelError(error, 'validation_failed'));
  });

  test('collects regular files only, of the size allowed, and follows nothing', async () => {
    const { files } = await sh(
      'echo ok > a; mkdir -p d; echo deep > d/b; ln -s a link; ln -s /etc/passwd out; ln -s d dl; mkfifo fifo; ' +
        'dd if=/dev/zero of=big bs=1k count=9 2>/dev/null; mkdir dir; chmod 0 a',
      {
        collect: ['a', 'd/b', 'link', 'out', 'dl/b', 'fifo', 'big', 'dir', 'none'].map((path) => ({
          path,
          maxBytes: 8192,
        })),
      },
    );
    assert.deepEqual(
      files.map(({ path, data, error }) => [path, data?.toString() ?? error]),
      [
        ['a', 'ok\n'],
        ['d/b', 'deep\n'],
        ['link', 'ELOOP'],
        ['out', 'ELOOP'],
        ['dl/b', 'ELOOP'],
        ['fifo', 'EINVAL'],
        ['big', 'EFBIG'],
        ['dir', 'EINVAL'],
        ['none', 'ENOENT'],
      ],
    );
  });

  test('files are collected after a kill as well', async () => {
    const { end, files } = await sh('echo partial > a; sleep 60', {
      limits: { wallMs: 300 },
      collect: [{ path: 'a', maxBytes: 100 }],
    });
    assert.deepEqual(end, { kind: 'killed', reason: 'wall' });
    assert.equal(files[0]?.data?.toString(), 'partial\n');
  });

  test('stops at each limit and says which', async () => {
    assert.equal(reasonOf(await sh('sleep 60', { limits: { wallMs: 200 } })), 'wall');
    assert.equal(
      reasonOf(await sh('while :; do :; done', { limits: { cpuMs: 300, wallMs: 20_000 } })),
      'cpu',
    );
    assert.equal(
      reasonOf(
        await sh('for i in 1 2 3 4; do (while :; do :; done) & done; wait', { limits: { cpuMs: 300 } }),
      ),
      'cpu',
    );
    assert.equal(reasonOf(await sh('yes', { limits: { outputBytes: 100_000 } })), 'output');
    assert.equal(
      reasonOf(await sh('tail -c 400m /dev/zero', { limits: { memoryBytes: 32 * MiB } })),
      'memory',
    );
  });

  test('keeps the output up to the limit', async () => {
    const { stdout } = await sh('yes', { limits: { outputBytes: 5000 } });
    assert.equal(stdout.length, 5000);
  });

  test('a child that was killed for memory is not hidden by an exit of 0', async () => {
    const { end } = await sh('(tail -c 400m /dev/zero) 2>/dev/null; exit 0', {
      limits: { memoryBytes: 32 * MiB },
    });
    assert.deepEqual(end, { kind: 'killed', reason: 'memory' });
  });

  test('the slot works on after each of these', async () => {
    const reports = await Promise.all(Array.from({ length: 8 }, (_, index) => sh(`exit ${index}`)));
    assert.deepEqual(
      reports.map(({ end }) => end),
      Array.from({ length: 8 }, (_, status) => ({ kind: 'exited', status })),
    );
  });

  test('disk, inodes and file size end at the limits of the work directory', async () => {
    const { stdout } = await sh(
      'dd if=/dev/zero of=a bs=64k count=64 2>&1 | tail -1; i=0; while [ $i -lt 40 ] && touch f$i; do i=$((i+1)); done 2>&1; echo; ls | wc -l',
      { limits: { tmpBytes: MiB, tmpFiles: 20, fileBytes: 8 * MiB } },
    );
    const count = Number(stdout.toString().trim().split('\n').at(-1));
    assert.match(stdout.toString(), /No space left/);
    assert.ok(count < 20, String(count));
    assert.match(
      (
        await sh('dd if=/dev/zero of=a bs=64k count=64; echo $?', { limits: { fileBytes: MiB } })
      ).stdout.toString(),
      /153|1/,
    );
  });

  test('a fork bomb meets its limit and dies with the sandbox', async () => {
    const { end } = await sh('f() { f | f & }; f; sleep 60 # carrel-bomb', {
      limits: { processes: 20, wallMs: 1500, cpuMs: 1000 },
    });
    assert.equal(end.kind === 'killed' || end.kind === 'exited', true);
    await gone('carrel-bomb');
  });

  test('what a program leaves in the background dies with it', async () => {
    const { end } = await sh(
      '(setsid sleep 8193.5 >/dev/null 2>&1 &) ; (trap "" TERM HUP; setsid sleep 8193.5 &) ; exit 0',
    );
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    await gone('8193.5');
  });

  test('nothing leaks in: variables, descriptors, processes, network, names', async () => {
    process.env['CARREL_TEST_SECRET'] = 'leaked';
    const { stdout } = await sh(
      'env; ls /proc/self/fd; ps; hostname; cat /proc/net/dev; cat /proc/self/cgroup; cut -d" " -f5 /proc/self/mountinfo',
    );
    delete process.env['CARREL_TEST_SECRET'];
    const text = stdout.toString();
    assert.doesNotMatch(text, /leaked|CARREL|carrel|eth0|isolate/);
    assert.match(text, /^sandbox$/m);
    assert.match(text, /^0\n1\n2\n3$/m); // 3 is ls itself, looking
  });

  test('the ways out are closed', async () => {
    const source = fixture('probe.c', probeSource);
    execFileSync('gcc', ['-static', '-O1', '-w', '-o', join(bed.directory, 'probe'), source]);
    const { stdout, end } = await sandboxes.run({
      root: bed.root,
      argv: ['/work/probe'],
      inputs: [{ host: fixture('a', 'a', 0o666), guest: '/inputs/a' }],
      work: [{ host: join(bed.directory, 'probe'), guest: 'probe' }],
    });
    const answers = Object.fromEntries(
      stdout
        .toString()
        .trim()
        .split('\n')
        .map((line) => line.split(' ')),
    );
    assert.deepEqual(answers, {
      mount: 'EPERM',
      unshare: 'EPERM',
      'clone-user': 'EPERM',
      clone3: 'ENOSYS',
      setns: 'EPERM',
      keyctl: 'ENOSYS',
      add_key: 'ENOSYS',
      io_uring: 'ENOSYS',
      bpf: 'EPERM',
      perf: 'EPERM',
      userfaultfd: 'EPERM',
      x32: 'ENOSYS',
      cachestat: 'ENOSYS',
      'open-tree-attr': 'ENOSYS',
      'of-later-kernels': 'ENOSYS',
      vsock: 'EAFNOSUPPORT',
      flock: 'ENOLCK',
      'fcntl-lock': 'ENOLCK',
      lease: 'ENOLCK',
      'ptrace-init': 'EPERM',
      'kill-init': 'ok', // the kernel drops it: process 1 takes no signal it has no handler for
      'proc-sys': 'ENOENT',
      kcore: 'ENOENT',
      sysrq: 'ENOENT',
      'init-mem': 'ENOENT',
      mknod: 'EPERM',
      chroot: 'EPERM',
      setuid: 'EINVAL',
      'write-root': 'EROFS',
      'write-dev': 'EROFS',
      'write-input': 'EROFS',
      'dup-fd-9': 'EBADF',
      work: 'ok',
    });
    assert.deepEqual(end, { kind: 'signaled', signal: 'SIGSYS' }); // int 0x80
  });

  test('an image without the mount points gets them without being changed', async () => {
    const bare = makeRoot(join(bed.directory, 'bare'), { mountPoints: false });
    const report = await sandboxes.run({
      root: bare,
      argv: [
        'sh',
        '-c',
        'cat /inputs/x/y; echo no > /inputs/z; echo no > /z; pwd; ls /proc/1 2>&1 | head -1',
      ],
      inputs: [{ host: fixture('y', 'y\n'), guest: '/inputs/x/y' }],
    });
    assert.match(report.stdout.toString(), /^y\n\/work\n/);
    assert.equal((report.stderr.toString().match(/Read-only/g) ?? []).length, 2);
    assert.equal(existsSync(join(bare, 'work')), false);
  });

  test('cancelling ends the run and keeps the slot', async () => {
    const controller = new AbortController();
    const running = sh('sleep 8194.5', { limits: { wallMs: 20_000 } as const });
    const cancelled = sandboxes.run(
      { root: bed.root, argv: ['sleep', '8195.5'] },
      { signal: controller.signal },
    );
    await until(5000, 'the program to start', () => processesWith('8195.5').length > 0 || undefined);
    controller.abort();
    assert.deepEqual((await cancelled).end, { kind: 'killed', reason: 'cancelled' });
    await gone('8195.5');
    assert.ok(processesWith('8194.5').length > 0);
    for (const pid of processesWith('8194.5')) process.kill(pid, 'SIGKILL');
    assert.deepEqual((await running).end, { kind: 'signaled', signal: 'SIGKILL' });
  });
});

test(
  'when the fork server is killed its runs die, the caller is told, and the next run works',
  { skip },
  async () => {
    await using bed = await makeBed();
    await using sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 1 });
    const running = sandboxes.run({ root: bed.root, argv: ['sleep', '8196.5'] });
    await until(5000, 'the program to start', () => processesWith('8196.5').length > 0 || undefined);
    assert.ok(bed.server.pid);
    process.kill(bed.server.pid, 'SIGKILL');
    await assert.rejects(running, (error) => isCarrelError(error, 'helper_failed'));
    await gone('8196.5');
    const next = await sandboxes.run({ root: bed.root, argv: ['true'] });
    assert.deepEqual(next.end, { kind: 'exited', status: 0 });
  },
);

test('a sweep kills and removes what an earlier daemon left', { skip }, async () => {
  await using bed = await makeBed();
  const layout = readCgroupLayout();
  const group = createGroup(layout, `carrel-${bed.instance}/slots/0`);
  const session = await bed.server.openSession();
  const running = session.run([
    ...group.v1Procs.map(op.join),
    ...(group.v2Directory === undefined ? [] : [op.cgroup(group.v2Directory)]),
    ['arg', 'sleep'],
    ['arg', '8197.5'],
    ['env', 'PATH=/bin:/usr/bin'],
  ]);
  running.catch(() => undefined);
  await until(5000, 'the program to start', () => processesWith('8197.5').length > 0 || undefined);
  await sweepGroups(layout, `carrel-${bed.instance}/slots`);
  await gone('8197.5');
  // on v1 the session is in the group as well, and dies with it
  if (group.v1Procs.length > 0) await assert.rejects(running);
  else assert.equal((await running).report.signal, 'SIGKILL');
  session.close();
});

test('runs where the mounts are shared, as systemd makes them on every host', { skip }, async () => {
  await using directory = await mkdtempDisposable(join(tmpdir(), 'carrel-shared-'));
  const binary = join(directory.path, 'isolate');
  const command = `/usr/bin/unshare --mount --propagation shared -- ${isolateBinary}`;
  writeFileSync(binary, `#!/bin/sh\nexec ${command} "$@"\n`, { mode: 0o755 });
  await using bed = await makeBed({ binary });
  await using sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 1 });
  const input = join(bed.directory, 'input');
  writeFileSync(input, 'read me');
  const mounts = (): string => readFileSync(`/proc/${bed.server.pid}/mountinfo`, 'utf8');
  const before = mounts();
  // without inputs the image itself is the root, with one it is below an overlay; the second has a child made ahead
  for (const guest of [undefined, undefined, '/inputs/a']) {
    const spec = {
      root: bed.root,
      argv: ['cat', '/proc/self/mountinfo'],
      inputs: guest === undefined ? [] : [{ host: input, guest }],
    };
    const { end, stdout } = await sandboxes.run(spec);
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    assert.doesNotMatch(stdout.toString(), / shared:/);
  }
  assert.equal(mounts(), before);
});
