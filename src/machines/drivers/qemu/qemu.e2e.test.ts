/** Virtual machines with the real QEMU and the image `tiny`: what a machine does, and what becomes of it when others fail. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { until, within } from '#base/deadline.ts';
import { formatSize } from '#base/units.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { isAlive, signalProcess, statOf } from '#host/processes.ts';
import { measureTscKhz } from '#host/tsc.ts';
import { keptPaths } from '#isolate/kept.ts';
import { linkNames } from '#test/netbed.ts';
import type { MachineSpec } from '../../driver.ts';
import { launchQemu } from './start.ts';
import { createAcceleration } from './accelerator.ts';
import { isCode, pullPlug, shellIn } from './testing-guest.ts';
import { makeVmBed, skip, type VmBed } from './testing.ts';

/** A guest under emulation, on a host with other things to do. */
const graceMs = 30_000;

let bed: VmBed;
before(async () => {
  if (!skip) bed = await makeVmBed();
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

test('what cannot be is refused before anything is made', { skip }, async () => {
  const spec = bed.spec();
  const validate = (limits: Partial<MachineSpec['limits']>) =>
    bed.driver.validate({ name: spec.name, limits: { ...spec.limits, ...limits } }, bed.image);
  await validate({});
  const smallest = bed.image.disk?.virtualBytes ?? 0;
  await assert.rejects(
    validate({ diskBytes: smallest / 2 }),
    new RegExp(
      `disk size ${formatSize(smallest / 2)} is smaller than the template's ${formatSize(smallest)}`,
    ),
  );
  await assert.rejects(validate({ memoryBytes: 16 * 2 ** 20 }), isCode('validation_failed'));
  await assert.rejects(validate({ memoryBytes: 2 ** 50 }), isCode('validation_failed'));
  await assert.rejects(validate({ cpus: 255 }), isCode('validation_failed'));
  const rootfs = await bed.host.images.ensure('busybox');
  await assert.rejects(bed.driver.validate({ name: spec.name, limits: spec.limits }, rootfs), /needs a disk/);
  assert.equal(existsSync(spec.directory), false);
});

test('a machine whose making failed is made by its next start', { skip }, async () => {
  const spec = bed.spec();
  await bed.driver.prepare(spec);
  await bed.driver.remove(spec); // what is left of a creation that was undone
  const machine = await bed.driver.start(spec);
  assert.equal(statSync(spec.directory).mode & 0o777, 0o700);
  assert.ok((await bed.host.images.holders(spec.image)).includes(spec.directory));
  await pullPlug(bed, spec, machine);
  await bed.driver.remove(spec);
});

test('a machine boots, is who it is told to be, works, and ends in order', { skip }, async (t) => {
  const spec = bed.spec({ sshKeys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA test'] });
  const began = performance.now();
  const machine = await bed.boot(spec);
  t.diagnostic(`${Math.round(performance.now() - began)} ms from nothing to an answer`);

  await t.test('its identity is its own', async () => {
    // the agent answers before the network is up
    const text = await until(
      20_000,
      'an address',
      async () => {
        const said = await shellIn(
          machine,
          'hostname; cat /etc/machine-id /root/.ssh/authorized_keys; ip -4 addr show eth0',
        );
        return said.includes('inet ') ? said : undefined;
      },
      { everyMs: 100 },
    );
    assert.match(text, new RegExp(`^${spec.name}\\n[0-9a-f]{32}\\nssh-ed25519 `));
    assert.ok(text.includes(`inet ${spec.network.address}/16`), text);
    const grown = Number(await shellIn(machine, "df -k / | tail -1 | awk '{print $2}'"));
    assert.ok(grown > 400_000, `the root file system has grown with the disk: ${grown} KiB`);
  });

  await t.test(
    'its clock goes as fast as ours, however busy the host was when it booted',
    { skip: machine.runtime.accelerator !== 'tcg' && 'KVM tells the guest' },
    async () => {
      const found = /tsc: Detected ([\d.]+) MHz/.exec(await shellIn(machine, 'dmesg'))?.[1];
      const ours = (await measureTscKhz()) / 1000;
      assert.ok(Math.abs(Number(found) / ours - 1) < 0.01, `${found} MHz are counted as ${ours} MHz`);
    },
  );

  await t.test('programs have their status, output and user; files go in and out', async () => {
    const reply = await machine.run(
      runRequest.parse({
        argv: ['sh', '-c', 'cat; echo oops >&2; exit 7'],
        cwd: '/',
        stdin: Buffer.from('in').toString('base64'),
      }),
    );
    assert.deepEqual(
      [
        reply.end,
        Buffer.from(reply.stdout, 'base64').toString(),
        Buffer.from(reply.stderr, 'base64').toString(),
      ],
      [{ kind: 'exited', status: 7 }, 'in', 'oops\n'],
    );
    await machine.writeFile('/root/note', Buffer.from('text'), { mode: 0o640 });
    const read = await machine.readFile('/root/note', { maxBytes: 100 });
    assert.deepEqual([Buffer.from(read.bytes).toString(), read.mode & 0o777], ['text', 0o640]);
    await assert.rejects(machine.readFile('/no-such', { maxBytes: 100 }), isCode('not_found'));
  });

  await t.test('a kept program goes on, and its terminal is opened again', async () => {
    await machine.exec('x-one', {
      argv: ['/bin/sh', '-c', 'echo begin; read line; echo got $line'],
      env: {},
      cwd: '/',
      user: 'root',
      tty: null,
    });
    const terminal = await bed.driver.openExec(spec, 'x-one');
    await until(10_000, 'its output', () =>
      Buffer.from(terminal.read(0).bytes).toString().includes('begin') ? true : undefined,
    );
    terminal.close();
    await bed.driver.dropExec(spec, 'x-one');
    await assert.rejects(bed.driver.openExec(spec, 'x-one'));
  });

  await t.test('the console asks for a login, and everybody sees the same', async () => {
    const first = await machine.console();
    const second = await machine.console();
    const text = (): string => Buffer.from(first.read(0).bytes).toString('latin1');
    await until(30_000, 'a login prompt', () => (/login: ?$/.test(text()) ? true : undefined));
    await first.write(Buffer.from('nobody-there\r'));
    await until(30_000, 'the next prompt', () => (/Password:/.test(text()) ? true : undefined));
    assert.deepEqual(second.read(0).bytes, first.read(0).bytes);
    await shellIn(machine, 'echo once > /dev/ttyS0');
    await until(10_000, 'the line', () => (text().includes('once\r\n') ? true : undefined)); // its own terminal's CR, and no other
    first.close();
    second.close();
  });

  await t.test('a new password is random, and the guest knows only its hash', async () => {
    const password = await machine.resetPassword();
    const shadow = await shellIn(machine, 'grep ^root: /etc/shadow');
    assert.match(shadow, /^root:\$6\$/);
    assert.ok(!shadow.includes(password));
  });

  await t.test('QEMU has no privileges, and its limits', async () => {
    const { pid } = machine.process;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const uid = 1_000_000 + spec.uidSlot * 65_536 + 1;
    assert.match(status, new RegExp(`Uid:\\t${uid}\\t${uid}\\t${uid}\\t${uid}\\n`));
    for (const set of ['CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
      assert.match(status, new RegExp(`${set}:\\t0+\\n`));
    assert.match(status, /NoNewPrivs:\t1\n/);
    assert.match(status, /Seccomp:\t2\n/);
    // its own, and ours; Linux counts them since 5.9
    assert.doesNotMatch(status, /Seccomp_filters:\t[01]\n/);
    assert.match(readFileSync(`/proc/${pid}/limits`, 'utf8'), /^Max file size +\d+ /m);
    assert.deepEqual(readdirSync(`/proc/${pid}/root/machine`).sort(), ['disk', 'initrd']);
    assert.equal(existsSync(`/proc/${pid}/root/root`), false, 'nothing of the host but its programs');
    assert.doesNotMatch(readFileSync(`/proc/${pid}/net/dev`, 'utf8'), /eth|t-|br/);
    const { memoryBytes, cpuMs, diskBytes, network } = await machine.stats();
    assert.ok((memoryBytes ?? 0) < spec.limits.memoryBytes + 192 * 2 ** 20);
    assert.ok(cpuMs > 0 && (diskBytes ?? 0) > 0 && network !== null);
  });

  await t.test('paused it does nothing, resumed it goes on, and its clock is right', async () => {
    const clock = async (): Promise<number> => Number(await shellIn(machine, 'date +%s')) * 1000;
    const early = Date.now() - (await clock());
    await machine.pause();
    const stopped = Date.now();
    assert.equal(machine.isPaused(), true);
    const adopted = await bed.again().adopt(spec);
    assert.equal(adopted?.isPaused(), true);
    adopted?.release();
    const { cpuMs: before } = await machine.stats();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { cpuMs: later } = await machine.stats();
    assert.ok(later - before < 50, `${later - before} ms of processor while paused`);
    await new Promise((resolve) => setTimeout(resolve, 8000));
    const stood = Date.now() - stopped;
    await machine.resume();
    const behind = Date.now() - (await clock());
    assert.ok(behind - early < stood / 2, `${stood} ms later it is ${behind} ms behind, and was ${early} ms`);
  });

  await t.test('a second start adopts, a second copy is refused', async () => {
    const other = bed.again();
    const same = await other.start(spec);
    assert.deepEqual(same.process, machine.process);
    same.release();
    await assert.rejects(
      launchQemu(spec, { ...bed.host, acceleration: createAcceleration() }),
      isCode('wrong_state'),
    );
    const later = await bed.again().adopt(spec); // which connects anew
    assert.ok(later);
    assert.equal(await shellIn(later, 'echo still'), 'still\n');
    later.release();
  });

  await t.test('stopping is orderly', async () => {
    const ended = machine.ended;
    await machine.stop({ graceMs });
    assert.deepEqual(await ended, { end: { kind: 'exited', status: 0 }, outOfMemory: false });
    machine.release();
    await bed.driver.tidy(spec);
    assert.deepEqual(bed.driver.lastEnd(spec), { end: { kind: 'exited', status: 0 }, outOfMemory: false });
    assert.equal(await bed.driver.adopt(spec), undefined);
  });

  await t.test('and nothing is left of it', async () => {
    assert.deepEqual(
      linkNames().filter((name) => name.startsWith('t-')),
      [],
    );
    await bed.driver.remove(spec);
    assert.equal(existsSync(spec.directory), false);
    assert.deepEqual(
      [...(await bed.driver.traces())].filter((id) => id === spec.id),
      [],
    );
  });
});

test(
  'an orderly stop is done by the machine itself, asked by its agent: its last wishes are heard, and all is on its disk',
  { skip },
  async () => {
    const spec = bed.spec();
    const machine = await bed.boot(spec);
    // the first thing that init does when it is told to power off
    await shellIn(
      machine,
      String.raw`sed -i 's#^::shutdown#::shutdown:/bin/touch /root/orderly\n&#' /etc/inittab && kill -HUP 1 && sleep 1`,
    );
    await shellIn(machine, 'echo late >/root/late'); // written, and not synced
    await machine.stop({ graceMs });
    assert.deepEqual((await machine.ended).end, { kind: 'exited', status: 0 });
    machine.release();
    await bed.driver.tidy(spec);
    const again = await bed.boot(spec);
    assert.equal(await shellIn(again, 'cat /root/late; ls /root/orderly'), 'late\n/root/orderly\n');
    await shellIn(again, 'rm /root/orderly; sync');
    await pullPlug(bed, spec, again); // the plug
    const last = await bed.boot(spec);
    assert.equal(await shellIn(last, 'ls /root/orderly 2>/dev/null || echo none'), 'none\n');
    await pullPlug(bed, spec, last);
    await bed.driver.remove(spec);
  },
);

test('a machine outlives everybody: adopted, its end noticed, and never there twice', { skip }, async (t) => {
  const spec = bed.spec();
  const first = await bed.boot(spec);
  const { pid, startTime } = first.process;
  first.release();

  await t.test('a later daemon finds the same one, with its console', async () => {
    const adopted = await bed.again().adopt(spec);
    assert.deepEqual(adopted?.process, { pid, startTime });
    assert.equal(await shellIn(adopted, 'echo here'), 'here\n');
    assert.equal(adopted.runtime.accelerator, first.runtime.accelerator);
    adopted.release();
  });

  await t.test('one whose keeper cannot be reached is not started again', async () => {
    const { socket } = keptPaths(spec.directory);
    const aside = `${socket}.aside`;
    renameSync(socket, aside);
    await assert.rejects(bed.driver.adopt(spec), isCode('helper_failed'));
    await assert.rejects(bed.driver.start(spec), isCode('helper_failed'));
    renameSync(aside, socket);
    assert.ok(isAlive({ pid, startTime }));
  });

  await t.test('when QEMU is killed, it is noticed within two seconds', async () => {
    const adopted = await bed.driver.adopt(spec);
    assert.ok(adopted);
    signalProcess({ pid, startTime }, 'SIGKILL');
    const report = await within(2000, 'the end to be noticed', adopted.ended);
    assert.deepEqual(report, { end: { kind: 'signaled', signal: 'SIGKILL' }, outOfMemory: false });
    adopted.release();
    assert.equal(await bed.driver.adopt(spec), undefined);
    await bed.driver.tidy(spec);
  });

  await t.test('it starts again from its disk, and is ended by force when it cannot be reached', async () => {
    const again = await bed.driver.start(spec);
    rmSync(keptPaths(spec.directory).socket);
    const { pid: now } = again.process;
    again.release();
    await bed.driver.kill(spec);
    await until(5000, 'QEMU to be gone', () => (statOf(now) === undefined ? true : undefined));
    await bed.driver.tidy(spec);
    await bed.driver.remove(spec);
    assert.equal(existsSync(spec.directory), false);
  });
});
