/** Containers and their keepers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { ownFd } from '#host/fds.ts';
import { isLocked } from '#host/flock.ts';
import { statOf } from '#host/processes.ts';
import { attach, collect } from './live.ts';
import {
  keptOperations,
  keptPaths,
  machineGroup,
  readExitReport,
  releaseMachine,
  startKept,
} from './kept.ts';
import { adoptKeeper, execPaths, startContainer } from './machine.ts';
import { op } from './plan.ts';
import { readRecord } from './record.ts';
import { gone, makeBed, makeLab, processesWith, runIn, skip } from './testing.ts';

const MiB = 1 << 20;

test('a command in a container has its status, output, input, user and place', { skip }, async () => {
  await using lab = await makeLab();
  const { out, err, exit } = await runIn(lab.keeper, 'id -u; hostname; pwd; cat; echo $HOME $A >&2; exit 9', {
    stdin: Buffer.from('in\n'),
    env: { A: 'b' },
    cwd: '/tmp',
  });
  assert.deepEqual([out, err, exit], ['0\nlab\n/tmp\nin\n', '/root b\n', 9]);
  assert.equal((await runIn(lab.keeper, 'id -u; id -g', { user: '1234' })).out, '1234\n1234\n');
  const missing = await collect(await lab.keeper.exec({ argv: ['no-such'] }));
  assert.deepEqual([missing.report.exit, missing.report.execErrno], [127, 2]);
  await assert.rejects(
    collect(await lab.keeper.exec({ argv: ['true'], user: 'nobody-knows' })),
    /user nobody-knows/,
  );
});

test('root in a container is nobody outside, and the image stays as it was', { skip }, async () => {
  await using lab = await makeLab();
  const { out } = await runIn(
    lab.keeper,
    'echo new > /file; rm /bin/yes; mkdir /d; mount -t tmpfs none /d && echo mounted; hostname other; hostname; cat /proc/1/cmdline',
  );
  assert.match(out, /^mounted\nother\ncarrel-init/);
  assert.ok(existsSync(join(lab.bed.root, 'bin/busybox')) && !existsSync(join(lab.bed.root, 'file')));
  assert.equal(readFileSync(join(lab.directory, 'storage/upper/file'), 'utf8'), 'new\n');
  const status = readFileSync(`/proc/${lab.keeper.initPid}/status`, 'utf8');
  assert.match(status, /^Uid:\s+1610612736\s/m);
  assert.doesNotMatch(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(lab.directory));
});

test('limits hold for commands: they start inside the control groups', { skip }, async () => {
  await using lab = await makeLab();
  assert.notEqual((await runIn(lab.keeper, 'tail -c 200m /dev/zero')).exit, 0);
  assert.equal((await runIn(lab.keeper, 'echo alive')).out, 'alive\n');
  const many = await runIn(lab.keeper, 'for i in $(seq 80); do sleep 8201.5 & done; echo done');
  assert.match(many.err, /fork/);
  await until(5000, 'the sleepers to end', () => {
    const left = processesWith('8201.5'); // some may still be the shell, about to become one
    for (const pid of left) process.kill(pid, 'SIGKILL');
    return left.length ? undefined : true;
  });
  const group = machineGroup(lab.bed.instance, lab.spec.id);
  assert.ok((group.usage().processes ?? 0) <= 48);
  assert.ok(group.usage().oomKills > 0);
  const timed = await collect(await lab.keeper.exec({ argv: ['sleep', '8202.5'], limits: { wallMs: 200 } }));
  assert.equal(timed.report.killed, 'wall');
  const loud = await collect(await lab.keeper.exec({ argv: ['yes'], limits: { outputBytes: 10_000 } }));
  assert.deepEqual([loud.report.killed, loud.stdout.length], ['output', 10_000]);
});

test("a terminal is the guest's own, knows its size, and can be resized", { skip }, async () => {
  await using lab = await makeLab();
  const shell = await lab.keeper.exec({ argv: ['sh'], tty: { rows: 33, columns: 99 } });
  let text = '';
  shell.onOutput((_, bytes) => void (text += bytes.toString()));
  // not before the prompt: a shell that sets its terminal up throws away what was typed ahead
  await until(5000, 'the prompt', () => text.includes('# ') || undefined);
  shell.write(Buffer.from('tty; stty size\n'));
  await until(5000, 'the size', () => text.includes('33 99') || undefined);
  assert.match(text, /\/dev\/pts\/\d/);
  shell.resize(20, 70);
  shell.write(Buffer.from('stty size; exit 4\n'));
  assert.equal((await shell.ended).exit, 4);
  assert.match(text, /20 70/);
});

test('a kept command goes on without us, is attached to again, and leaves its report', { skip }, async () => {
  await using lab = await makeLab();
  const exec = await lab.keeper.exec({
    argv: ['sh', '-c', 'echo begin; read x; echo got $x; exit 6'],
    stdin: 'open',
    keep: { id: 'x1' },
  });
  const paths = execPaths(lab.directory, 'x1');
  await until(5000, 'output', () => readRecord(paths.record, 0).total >= 6 || undefined);
  exec.close();
  const again = await attach(paths.socket);
  assert.equal(again.offset, 6);
  assert.equal(readExitReport(paths.report), undefined);
  again.write(Buffer.from('word\n'));
  assert.equal((await again.ended).exit, 6);
  assert.equal(readExitReport(paths.report)?.exit, 6);
  assert.equal(readRecord(paths.record, 0).bytes.toString(), 'begin\ngot word\n');
  assert.equal(readRecord(paths.record, 6).bytes.toString(), 'got word\n');
});

test('a long output keeps its first and last part under the same numbers', { skip }, async () => {
  await using lab = await makeLab();
  const exec = await lab.keeper.exec({ argv: ['seq', '500000'], keep: { id: 'x2' } });
  const { record } = execPaths(lab.directory, 'x2');
  await exec.ended;
  const expected = Array.from({ length: 500_000 }, (_, index) => `${index + 1}\n`).join('');
  const { total } = readRecord(record, 0);
  assert.equal(total, expected.length);
  assert.equal(readRecord(record, 0).bytes.toString(), expected.slice(0, MiB));
  assert.equal(readRecord(record, total - 700_000).bytes.toString(), expected.slice(total - 700_000));
  assert.throws(
    () => readRecord(record, MiB + 10),
    (error) => isCarrelError(error, 'gone'),
  );
});

test(
  'a container outlives the fork server and its client, and is adopted as the same one',
  { skip },
  async () => {
    await using lab = await makeLab();
    const { initPid, initStartTime } = lab.keeper;
    lab.keeper.close();
    assert.ok(lab.bed.server.pid);
    process.kill(lab.bed.server.pid, 'SIGKILL');
    await until(5000, 'the server to die', () => (lab.bed.server.pid === undefined ? true : undefined));
    const adopted = await adoptKeeper(lab.directory);
    assert.ok(adopted);
    assert.deepEqual([adopted.initPid, adopted.initStartTime], [initPid, initStartTime]);
    assert.equal((await runIn(adopted, 'hostname')).out, 'lab\n');
    await adopted.kill();
    assert.equal(await adoptKeeper(lab.directory), undefined);
  },
);

test('a second copy is refused while the first lives, and the first is not hurt', { skip }, async () => {
  await using lab = await makeLab();
  await assert.rejects(startContainer(lab.bed.server, lab.spec, { instance: lab.bed.instance }), (error) =>
    isCarrelError(error, 'wrong_state'),
  );
  assert.equal((await runIn(lab.keeper, 'echo still')).out, 'still\n');
});

test('a keeper that lives but cannot be reached is an error, not "gone"', { skip }, async () => {
  await using lab = await makeLab();
  rmSync(keptPaths(lab.directory).socket);
  await assert.rejects(adoptKeeper(lab.directory), (error) => isCarrelError(error, 'helper_failed'));
  await lab.keeper.kill();
});

test('power off is orderly: programs get TERM, and the report is written', { skip }, async () => {
  await using lab = await makeLab();
  await runIn(
    lab.keeper,
    '(trap "echo bye > /said; exit" TERM; while :; do sleep 0.05; done) >/dev/null 2>&1 & sleep 0.2',
  );
  lab.keeper.powerOff();
  assert.equal((await lab.keeper.ended()).exit, 0);
  assert.equal(readFileSync(join(lab.directory, 'storage/upper/said'), 'utf8'), 'bye\n');
  assert.equal(readExitReport(keptPaths(lab.directory).report)?.exit, 0);
  assert.equal(existsSync(keptPaths(lab.directory).socket), false);
});

test('killing leaves no process, mount or control group', { skip }, async () => {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  await using lab = await makeLab();
  await runIn(lab.keeper, 'sleep 8203.5 >/dev/null 2>&1 &');
  await until(5000, 'the program', () => processesWith('sleep\x008203.5').length === 1 || undefined);
  const report = lab.keeper.ended();
  await lab.keeper.kill();
  assert.equal((await report).killed, 'cancelled');
  await gone('8203.5');
  assert.equal(statOf(lab.keeper.initPid), undefined);
  await releaseMachine(lab.bed.instance, lab.spec.id);
  assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts);
});

test('the machine dies with its keeper, so the lock never lies', { skip }, async () => {
  await using lab = await makeLab();
  const { keeper: keeperPid } = JSON.parse(readFileSync(keptPaths(lab.directory).report, 'utf8'));
  process.kill(Number(keeperPid), 'SIGKILL');
  assert.equal((await lab.keeper.ended()).killed, 'lost');
  await until(5000, 'init to die', () => (statOf(lab.keeper.initPid) === undefined ? true : undefined));
  assert.equal(await adoptKeeper(lab.directory), undefined);
});

test('a container starts again on its own writable layer', { skip }, async () => {
  await using lab = await makeLab();
  await runIn(lab.keeper, 'echo kept > /root-file');
  await lab.keeper.kill();
  const again = await startContainer(lab.bed.server, lab.spec, { instance: lab.bed.instance });
  assert.equal((await runIn(again, 'cat /root-file')).out, 'kept\n');
  await again.kill();
});

test('the writable layer may be a file system of its own, with its own size', { skip }, async () => {
  const image = `/tmp/carrel-test-${process.pid}.img`;
  execFileSync('truncate', ['-s', '24M', image]);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-F', image]);
  const device = execFileSync('losetup', ['--find', '--show', image], { encoding: 'utf8' }).trim();
  try {
    await using lab = await makeLab({ upper: { kind: 'loop', device } });
    const { out, err } = await runIn(lab.keeper, 'dd if=/dev/zero of=/big bs=1M count=40; df -m / | tail -1');
    assert.match(err + out, /No space left/);
    await lab.keeper.kill();
  } finally {
    execFileSync('losetup', ['--detach', device]);
    rmSync(image);
  }
});

test('the network is plugged while init waits, and configured before it runs', { skip }, async () => {
  let plugged = 0;
  await using lab = await makeLab({
    network: {
      plug: (pid) => {
        plugged = pid;
        // a dummy end: the real one is the fabric's business
        execFileSync('nsenter', [
          '-t',
          String(pid),
          '-n',
          'ip',
          'link',
          'add',
          'eth0',
          'type',
          'veth',
          'peer',
          'name',
          'other0',
        ]);
        return Promise.resolve();
      },
      address: '192.168.7.9',
      prefix: 16,
      gateway: '192.168.0.1',
      mac: '02:ca:c0:a8:07:09',
    },
  });
  assert.equal(plugged, lab.keeper.initPid);
  const { out } = await runIn(lab.keeper, 'ip addr show eth0; ip route');
  assert.match(out, /inet 192\.168\.7\.9\/16/);
  assert.match(out, /default via 192\.168\.0\.1 dev eth0/);
  assert.match(out, /02:ca:c0:a8:07:09/);
});

test('pausing stops every process, and going on resumes them', { skip }, async () => {
  await using lab = await makeLab();
  await runIn(lab.keeper, '(while :; do echo x >> /ticks; sleep 0.01; done) >/dev/null 2>&1 &');
  const ticks = (): number => {
    const path = join(lab.directory, 'storage/upper/ticks');
    return existsSync(path) ? readFileSync(path).length : 0;
  };
  await until(5000, 'ticks', () => (ticks() > 0 ? true : undefined));
  const group = machineGroup(lab.bed.instance, lab.spec.id);
  await group.freeze(true);
  const before = ticks();
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(ticks(), before);
  await group.freeze(false);
  await until(5000, 'more ticks', () => (ticks() > before ? true : undefined));
});

test(
  'a kept program outside a user namespace is who the plan says, with the descriptors it was given, and a raw terminal',
  { skip },
  async () => {
    await using bed = await makeBed();
    const directory = join(bed.directory, 'm-kept');
    mkdirSync(join(directory, 'root'), { recursive: true, mode: 0o700 });
    using file = ownFd(openSync(join(directory, 'given'), 'w'));
    const kept = await startKept(
      bed.server,
      {
        id: 'm-kept',
        directory,
        limits: { processes: 8 },
        fds: [file.fd],
        plan: (group) => [
          ...keptOperations(directory, group),
          op.namespaces(['pid', 'mnt', 'uts', 'ipc', 'net']),
          op.root(bed.root, ['nosuid', 'nodev']),
          op.private(),
          op.dev(['null']),
          op.mkdir('/dev/pts', 0o755),
          op.mount('devpts', '/dev/pts', ['nosuid', 'noexec'], 'newinstance,ptmxmode=0666'),
          op.mount('proc', '/proc', ['nosuid', 'nodev', 'noexec']),
          op.descriptor(5, 0),
          op.pty(24, 80),
          op.raw(),
          op.pivot(),
          op.caps('bounding'),
          op.identity(0x6000_0001, 0x6000_0002, [7, 9]),
          op.noNewPrivileges(),
          ...[
            '/bin/sh',
            '-c',
            'id >&5; grep ^Cap /proc/self/status >&5; ls /proc/self/fd >&5; head -c 4',
          ].map(op.arg),
        ],
      },
      { instance: bed.instance },
    );
    try {
      await until(
        5000,
        'the shell to have written',
        () => readFileSync(join(directory, 'given'), 'utf8').includes('5\n') || undefined,
      );
      kept.console.write(Buffer.from('\x03\x04a\n'));
      assert.equal((await kept.ended()).exit, 0);
      // no echo, no signal, no end of file, and no carriage return
      assert.equal(readRecord(keptPaths(directory).console, 0).bytes.toString('latin1'), '\x03\x04a\n');
      const text = readFileSync(join(directory, 'given'), 'utf8');
      assert.match(text, /uid=1610612737 gid=1610612738 groups=7(\(\w+\))?,9/);
      assert.match(text, /CapPrm:\t0+\n/);
      assert.match(text, /CapBnd:\t0+\n/);
      assert.match(
        text,
        /\n0\n1\n2\n3\n5\n$/,
        'what it was given and nothing else; 3 is the directory being listed',
      );
    } finally {
      await releaseMachine(bed.instance, 'm-kept');
      await until(5000, 'the keeper to end', () => (isLocked(keptPaths(directory).lock) ? undefined : true));
    }
  },
);
