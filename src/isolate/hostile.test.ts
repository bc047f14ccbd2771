/** What a student who is root in a machine may try against those who look after it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { attach, collect } from './live.ts';
import { machineGroup } from './kept.ts';
import { execPaths } from './machine.ts';
import { op } from './plan.ts';
import { openSandboxes } from './sandbox.ts';
import { startForkServer } from './server.ts';
import { gone, makeBed, makeLab, runIn, skip } from './testing.ts';

test('a command ends when it ends, whatever it leaves behind that writes for ever', { skip }, async () => {
  await using lab = await makeLab();
  const script = 'for i in 1 2 3 4 5 6 7 8; do setsid yes & done; sleep 0.1; exit 7';
  const { report, stdout } = await within(
    20_000,
    'the command to end',
    collect(await lab.keeper.exec({ argv: ['sh', '-c', script] })),
  );
  assert.equal(report.exit, 7);
  assert.ok(stdout.length > 0);
  assert.equal((await runIn(lab.keeper, 'echo alive')).out, 'alive\n');
});

/** Makes system calls through int 0x80, which a 64-bit program can do too: the kernel takes the 32-bit table. */
const calls32 = `
#include <stdio.h>
static long call(long number, long a) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
  return (int)result;
}
int main(void) {
  static const int numbers[] = { 20, 288, 286, 287, 425, 102, 357, 336, 374, 283, 128, 342, 79, 443 };
  for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) printf("%d %ld\\n", numbers[i], call(numbers[i], 0) > 0 ? 1 : call(numbers[i], 0));
  printf("359 %ld\\n", call(359, 40));
  return 0;
}`;

function compile(root: string): void {
  const source = join(root, 'calls.c');
  writeFileSync(source, calls32);
  execFileSync('gcc', ['-static', '-o', join(root, 'bin/calls32'), source]);
}

test("a machine's 32-bit system calls are refused where the 64-bit ones are", { skip }, async () => {
  await using lab = await makeLab();
  compile(lab.bed.root);
  const { out, exit } = await runIn(lab.keeper, 'calls32');
  const answers = new Map(
    out
      .trim()
      .split('\n')
      .map((line) => line.split(' ').map(Number))
      .map(([a, b]) => [a, b]),
  );
  assert.equal(exit, 0);
  assert.equal(answers.get(20), 1, 'getpid works');
  const { EPERM, ENOSYS, EAFNOSUPPORT } = constants.errno;
  for (const number of [288, 286, 287, 425, 102]) assert.equal(answers.get(number), -ENOSYS, String(number));
  for (const number of [357, 336, 374, 283, 128, 342, 79, 443])
    assert.equal(answers.get(number), -EPERM, String(number));
  assert.equal(answers.get(359), -EAFNOSUPPORT, 'vsock');
});

test('a sandbox has no 32-bit system calls', { skip }, async () => {
  await using bed = await makeBed();
  compile(bed.root);
  await using sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 1 });
  const { end } = await sandboxes.run({ root: bed.root, argv: ['/bin/calls32'] });
  assert.deepEqual(end, { kind: 'signaled', signal: 'SIGSYS' });
});

test('limits hold for the run after one that was refused', { skip }, async () => {
  await using bed = await makeBed();
  await using sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 1 });
  const hog = { root: bed.root, argv: ['/bin/tail', '-c', '60m', '/dev/zero'] };
  const limits = { memoryBytes: 32 << 20 };
  await sandboxes.run({ root: bed.root, argv: ['/bin/true'] });
  const collect = [{ path: '../outside', maxBytes: 1 }];
  await assert.rejects(sandboxes.run({ ...hog, limits, collect }), /Invalid path/);
  assert.deepEqual((await sandboxes.run({ ...hog, limits })).end, { kind: 'killed', reason: 'memory' });
  await assert.rejects(sandboxes.run({ ...hog, root: join(bed.directory, 'no-such'), limits }));
  assert.deepEqual((await sandboxes.run({ ...hog, limits })).end, { kind: 'killed', reason: 'memory' });
});

test('a frozen machine keeps nobody waiting who attaches to its programs', { skip }, async () => {
  await using lab = await makeLab();
  const kept = await lab.keeper.exec({ argv: ['sleep', '8310'], keep: { id: 'e-frozen' } });
  kept.close();
  const group = machineGroup(lab.bed.instance, lab.spec.id);
  await group.freeze(true);
  await assert.rejects(attach(execPaths(lab.directory, 'e-frozen').socket), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
  await group.freeze(false);
});

test('a kept program is begun once, and the one who comes second is told', { skip }, async () => {
  await using lab = await makeLab();
  const spec = { argv: ['sleep', '8311'], keep: { id: 'e-twice' } };
  const first = await lab.keeper.exec(spec);
  await assert.rejects(lab.keeper.exec(spec), (error) => isCarrelError(error, 'wrong_state'));
  first.close();
});

test('what is refused is named, however long it is', { skip }, async () => {
  await using lab = await makeLab();
  const exec = await lab.keeper.exec({ argv: ['true'], cwd: `/${'x'.repeat(5000)}` });
  await assert.rejects(collect(exec), /cwd \/x+: File name too long/);
});

test('shared memory has half of what the machine may have', { skip }, async () => {
  await using lab = await makeLab();
  const { out } = await runIn(
    lab.keeper,
    'for d in /dev/shm /run; do df -k $d | tail -n 1 | awk "{print \\$2}"; done',
  );
  assert.equal(out, '32768\n32768\n');
});

test('whenever the fork server dies, no run goes on without it', { skip }, async () => {
  await using bed = await makeBed();
  const own = `${8320 + Math.random()}`;
  for (let round = 0; round < 24; round += 1) {
    const server = await startForkServer({ socket: join(bed.directory, `${round}.sock`) });
    const session = await server.openSession();
    const running = session.run([
      op.namespaces(['user', 'pid', 'mnt']),
      op.map('uid', 0, 0x7f00_0000, 1),
      op.map('gid', 0, 0x7f00_0000, 1),
      ...Array.from({ length: 4000 }, () => op.identity(0, 0)), // each forgets, and asks again
      op.init(),
      op.arg('/bin/busybox'),
      op.arg('sleep'),
      op.arg(own),
    ]);
    running.catch(() => undefined);
    await sleep(round % 8);
    if (server.pid !== undefined) process.kill(server.pid, 'SIGKILL');
    await assert.rejects(running);
    await server.close();
    await gone(own);
  }
});
