/** The grading sandbox against what a student may hand in: limits, what leaks in, and the ways out. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { useSandboxes } from './testing-sandbox.ts';
import type { SandboxReport } from './sandbox.ts';
import { gone, skip } from './testing.ts';

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

describe('the sandbox holds', { skip }, () => {
  const on = useSandboxes();

  test('stops at each limit and says which', async () => {
    assert.equal(reasonOf(await on.sh('sleep 60', { limits: { wallMs: 200 } })), 'wall');
    assert.equal(
      reasonOf(await on.sh('while :; do :; done', { limits: { cpuMs: 300, wallMs: 20_000 } })),
      'cpu',
    );
    assert.equal(
      reasonOf(
        await on.sh('for i in 1 2 3 4; do (while :; do :; done) & done; wait', { limits: { cpuMs: 300 } }),
      ),
      'cpu',
    );
    assert.equal(reasonOf(await on.sh('yes', { limits: { outputBytes: 100_000 } })), 'output');
    assert.equal(
      reasonOf(await on.sh('tail -c 400m /dev/zero', { limits: { memoryBytes: 32 * MiB } })),
      'memory',
    );
  });

  test('keeps the output up to the limit', async () => {
    const { stdout } = await on.sh('yes', { limits: { outputBytes: 5000 } });
    assert.equal(stdout.length, 5000);
  });

  test('a child that was killed for memory is not hidden by an exit of 0', async () => {
    const { end } = await on.sh('(tail -c 400m /dev/zero) 2>/dev/null; exit 0', {
      limits: { memoryBytes: 32 * MiB },
    });
    assert.deepEqual(end, { kind: 'killed', reason: 'memory' });
  });

  test('the slot works on after each of these', async () => {
    const reports = await Promise.all(Array.from({ length: 8 }, (_, index) => on.sh(`exit ${index}`)));
    assert.deepEqual(
      reports.map(({ end }) => end),
      Array.from({ length: 8 }, (_, status) => ({ kind: 'exited', status })),
    );
  });

  test('disk, inodes and file size end at the limits of the work directory', async () => {
    const { stdout } = await on.sh(
      'dd if=/dev/zero of=a bs=64k count=64 2>&1 | tail -1; i=0; while [ $i -lt 40 ] && touch f$i; do i=$((i+1)); done 2>&1; echo; ls | wc -l',
      { limits: { tmpBytes: MiB, tmpFiles: 20, fileBytes: 8 * MiB } },
    );
    const count = Number(stdout.toString().trim().split('\n').at(-1));
    assert.match(stdout.toString(), /No space left/);
    assert.ok(count < 20, String(count));
    assert.match(
      (
        await on.sh('dd if=/dev/zero of=a bs=64k count=64; echo $?', { limits: { fileBytes: MiB } })
      ).stdout.toString(),
      /153|1/,
    );
  });

  test('a fork bomb meets its limit and dies with the sandbox', async () => {
    const { end } = await on.sh('f() { f | f & }; f; sleep 60 # carrel-bomb', {
      limits: { processes: 20, wallMs: 1500, cpuMs: 1000 },
    });
    assert.equal(end.kind === 'killed' || end.kind === 'exited', true);
    await gone('carrel-bomb');
  });

  test('what a program leaves in the background dies with it', async () => {
    const { end } = await on.sh(
      '(setsid sleep 8193.5 >/dev/null 2>&1 &) ; (trap "" TERM HUP; setsid sleep 8193.5 &) ; exit 0',
    );
    assert.deepEqual(end, { kind: 'exited', status: 0 });
    await gone('8193.5');
  });

  test('nothing leaks in: variables, descriptors, processes, network, names', async () => {
    process.env['CARREL_TEST_SECRET'] = 'leaked';
    const { stdout } = await on.sh(
      'env; ls /proc/self/fd; ps; hostname; cat /proc/net/dev; cat /proc/self/cgroup; cut -d" " -f5 /proc/self/mountinfo',
    );
    delete process.env['CARREL_TEST_SECRET'];
    const text = stdout.toString();
    assert.doesNotMatch(text, /leaked|CARREL|carrel|eth0|isolate/);
    assert.match(text, /^sandbox$/m);
    assert.match(text, /^0\n1\n2\n3$/m); // 3 is ls itself, looking
  });

  test('the ways out are closed', async () => {
    const source = on.fixture('probe.c', probeSource);
    execFileSync('gcc', ['-static', '-O1', '-w', '-o', join(on.bed.directory, 'probe'), source]);
    const { stdout, end } = await on.sandboxes.run({
      root: on.bed.root,
      argv: ['/work/probe'],
      inputs: [{ host: on.fixture('a', 'a', 0o666), guest: '/inputs/a' }],
      work: [{ host: join(on.bed.directory, 'probe'), guest: 'probe' }],
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
});
