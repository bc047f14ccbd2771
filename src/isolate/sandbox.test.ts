/** The grading sandbox: what goes in, what comes out, and what becomes of it when others fail. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { createGroup, sweepGroups } from './cgroups/group.ts';
import { readCgroupLayout } from './cgroups/layout.ts';
import { op } from './plan.ts';
import { useSandboxes } from './testing-sandbox.ts';
import { openSandboxes } from './sandbox.ts';
import { isolateBinary } from './server.ts';
import { gone, makeBed, makeRoot, processesWith, skip } from './testing.ts';

const MiB = 1 << 20;

describe('the sandbox', { skip }, () => {
  const on = useSandboxes();

  test('gives output, status and usage of a program', async () => {
    const report = await on.sh('echo out; echo err >&2; exit 3');
    assert.deepEqual(report.end, { kind: 'exited', status: 3 });
    assert.equal(report.stdout.toString(), 'out\n');
    assert.equal(report.stderr.toString(), 'err\n');
    assert.ok(report.usage.wallMs > 0 && report.usage.cpuMs > 0);
    assert.equal(report.usage.oomKills, 0);
  });

  test('tells a death by signal from an exit, even of the program itself', async () => {
    assert.deepEqual((await on.sh('kill -SEGV $$')).end, { kind: 'signaled', signal: 'SIGSEGV' });
    assert.deepEqual((await on.sh('exit 139')).end, { kind: 'exited', status: 139 });
  });

  test('a program that is not there exits with 127 and a sentence', async () => {
    const report = await on.sandboxes.run({ root: on.bed.root, argv: ['./a.out'] });
    assert.deepEqual(report.end, { kind: 'exited', status: 127 });
    assert.match(report.stderr.toString(), /a\.out: No such file/);
  });

  test('passes input, arguments, variables and a result', async () => {
    const report = await on.sandboxes.run({
      root: on.bed.root,
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
    assert.equal((await on.sh('wc -c', { stdin })).stdout.toString().trim(), String(MiB));
    assert.deepEqual((await on.sh('exit 0', { stdin })).end, { kind: 'exited', status: 0 });
  });

  test('binds inputs read-only and copies trees into the work directory', async () => {
    const tree = join(on.bed.directory, 'tree');
    mkdirSync(join(tree, 'sub'), { recursive: true, mode: 0o700 });
    writeFileSync(join(tree, 'sub/run.sh'), '#!/bin/sh\necho ran\n', { mode: 0o700 });
    symlinkSync('sub/run.sh', join(tree, 'link'));
    const report = await on.sh(
      'cat /inputs/deep/data; echo x > /inputs/deep/data; ./a/b/link; id -u; ls -ld a',
      {
        inputs: [{ host: on.fixture('data', 'given\n'), guest: '/inputs/deep/data' }],
        work: [{ host: tree, guest: 'a/b' }],
      },
    );
    assert.match(report.stdout.toString(), /^given\nran\n1000\ndrwxr-xr-x .* 1000 +1000 /);
    assert.match(report.stderr.toString(), /Read-only file system/);
    assert.equal(readFileSync(join(on.bed.directory, 'data'), 'utf8'), 'given\n');
  });

  test('paths that leave their place are refused', async () => {
    for (const more of [
      { inputs: [{ host: '/etc/passwd', guest: '/../x' }] },
      { inputs: [{ host: '/etc/passwd', guest: 'x' }] },
      { work: [{ host: '/etc/passwd', guest: '../x' }] },
      { work: [{ host: '/etc/passwd', guest: '/x' }] },
      { collect: [{ path: '../x', maxBytes: 1 }] },
    ])
      await assert.rejects(on.sh('true', more), (error) => isCarrelError(error, 'validation_failed'));
  });

  test('collects regular files only, of the size allowed, and follows nothing', async () => {
    const { files } = await on.sh(
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
    const { end, files } = await on.sh('echo partial > a; sleep 60', {
      limits: { wallMs: 300 },
      collect: [{ path: 'a', maxBytes: 100 }],
    });
    assert.deepEqual(end, { kind: 'killed', reason: 'wall' });
    assert.equal(files[0]?.data?.toString(), 'partial\n');
  });

  test('an image without the mount points gets them without being changed', async () => {
    const bare = makeRoot(join(on.bed.directory, 'bare'), { mountPoints: false });
    const report = await on.sandboxes.run({
      root: bare,
      argv: [
        'sh',
        '-c',
        'cat /inputs/x/y; echo no > /inputs/z; echo no > /z; pwd; ls /proc/1 2>&1 | head -1',
      ],
      inputs: [{ host: on.fixture('y', 'y\n'), guest: '/inputs/x/y' }],
    });
    assert.match(report.stdout.toString(), /^y\n\/work\n/);
    assert.equal((report.stderr.toString().match(/Read-only/g) ?? []).length, 2);
    assert.equal(existsSync(join(bare, 'work')), false);
  });

  test('cancelling ends the run and keeps the slot', async () => {
    const controller = new AbortController();
    const running = on.sh('sleep 8194.5', { limits: { wallMs: 20_000 } as const });
    const cancelled = on.sandboxes.run(
      { root: on.bed.root, argv: ['sleep', '8195.5'] },
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
