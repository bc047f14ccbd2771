/** Templates with the real QEMU and the image `tiny`: copies that are themselves, and what becomes of it when parts fail. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import { adoptKept } from '#isolate/kept.ts';
import { linkNames, openTap } from '#test/netbed.ts';
import type { MachineSpec, RunningMachine } from '../../../driver.ts';
import type { TemplateDriver } from '../../../templates/driver.ts';
import { layerPath, loadState } from '../disk/files.ts';
import { layerFileBytes } from '../spec.ts';
import { shellIn } from '../testing-guest.ts';
import { bootMs, makeVmBed, skip, type VmBed } from '../testing.ts';
import { phaseOf } from './clone.ts';
import { makersIn, TemplateStore } from './files.ts';

/** A guest under emulation, on a host with other things to do. */
/** A guest under emulation that competes with others is late; a clock that nobody has set would be as old as the template. */
const clockMs = 10_000;
/** What the machine that is parked calls itself (park.ts). */
const parkedMac = '020000000001';

let bed: VmBed;
let templates: TemplateDriver;
let store: TemplateStore;
let key: string;
const directoryOf = (): string => join(dirname(bed.host.directory), 'templates');

before(async () => {
  if (skip) return;
  bed = await makeVmBed();
  assert.ok(bed.driver.templates);
  templates = bed.driver.templates;
  store = new TemplateStore(directoryOf());
  await park();
  key = await templates.keyOf(bed.image.hash, bed.spec().limits);
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

async function park(): Promise<void> {
  const early = bed.spec();
  await templates.park(early, { signal: new AbortController().signal, step: () => undefined });
  await bed.driver.sweep(early.id);
}

const shell = async (machine: RunningMachine, script: string) => (await shellIn(machine, script)).trim();

async function end(spec: MachineSpec, machine: RunningMachine): Promise<void> {
  await machine.stop({ graceMs: 0 });
  machine.release();
  await bed.driver.remove(spec);
}

const facts = [
  'hostname',
  'cat /etc/machine-id',
  'cat /proc/sys/kernel/random/boot_id',
  'head -c 16 /dev/urandom | od -An -tx1',
  'cat /sys/class/net/eth0/address',
  'ip -4 -o addr show dev eth0',
  'sha256sum </etc/dropbear/dropbear_ed25519_host_key',
  'sha256sum </etc/ssh/ssh_host_ed25519_key',
] as const;

test(
  'five copies at once are five machines, and none of them was ever heard under the name of the parked one',
  { skip },
  async () => {
    using wire = openTap(process.pid, 0); // every frame on every link of this namespace
    const heard = new Set<string>();
    const listen = (): void => {
      for (const frame of wire.received()) heard.add(frame.subarray(6, 12).toString('hex'));
    };
    const listening = setInterval(listen, 20);
    listening.unref();
    const specs = Array.from({ length: 5 }, () => bed.spec());
    const machines = await Promise.all(specs.map((spec) => bed.boot(spec)));
    const seen = await Promise.all(
      machines.map(async (machine) => {
        const before = Date.now();
        const lines = (await shell(machine, `${facts.join('; ')}; date +%s`))
          .split('\n')
          .map((line) => line.trim());
        const clock = Number(lines.pop()) * 1000;
        assert.ok(Math.abs(clock - before) < clockMs, `its clock says ${clock}, ours ${before}`);
        return lines;
      }),
    );
    for (const [index, fact] of facts.entries())
      assert.equal(
        new Set(seen.map((lines) => lines[index])).size,
        5,
        `${fact}: ${seen.map((lines) => lines[index]).join(', ')}`,
      );
    for (const [index, spec] of specs.entries()) {
      const lines = seen[index] ?? [];
      assert.equal(machines[index]?.runtime.startedFrom, 'template');
      assert.equal(lines[0], spec.name);
      assert.equal(lines[4], spec.network.mac);
      assert.match(lines[5] ?? '', new RegExp(`inet ${spec.network.address}/16 `));
      assert.equal(phaseOf(spec.directory), undefined);
    }
    await Promise.all(machines.map((machine) => shell(machine, 'ping -c 1 -W 5 192.168.0.1')));
    listen();
    clearInterval(listening);
    for (const spec of specs)
      assert.ok(heard.has(spec.network.mac.replaceAll(':', '')), `${spec.name} was not heard`);
    assert.equal(heard.has(parkedMac), false);
    await Promise.all(machines.map((machine, index) => end(specs[index] ?? bed.spec(), machine)));
  },
);

test(
  'a copy has the disk it was promised, writes to no other, and boots from it by itself later',
  { skip },
  async () => {
    const spec = bed.spec({ limits: { ...bed.spec().limits, diskBytes: 2 ** 30 } });
    const disk = (await store.find(key))?.disk ?? '';
    const before = statSync(disk).mtimeMs;
    const machine = await bed.boot(spec);
    const kib = Number(await shell(machine, "df -k / | awk 'NR == 2 { print $2 }'"));
    assert.ok(kib > 800 * 1024, `${kib} KiB`);
    await shell(machine, 'echo mine >/root/mine; sync');
    assert.equal(statSync(layerPath(spec.directory, 1)).ino, statSync(disk).ino);
    assert.equal(statSync(disk).mtimeMs, before);
    assert.equal((await loadState(spec.directory))?.bytes, 2 ** 30);
    await machine.stop({ graceMs: 60_000 });
    machine.release();
    await bed.driver.tidy(spec);
    const again = await bed.boot(spec);
    assert.equal(again.runtime.startedFrom, 'image');
    assert.equal(await shell(again, 'cat /root/mine; hostname'), `mine\n${spec.name}`);
    await end(spec, again);
  },
);

test('a template that is damaged costs a boot, and the machine says why', { skip }, async () => {
  const template = await store.find(key);
  assert.ok(template);
  await chmod(template.state, 0o600);
  const whole = statSync(template.state).size;
  truncateSync(template.state, Math.floor(whole / 2));
  const spec = bed.spec();
  const machine = await bed.boot(spec);
  assert.equal(machine.runtime.startedFrom, 'image');
  assert.match(machine.runtime.note ?? '', /its template could not be used/);
  assert.equal(await shell(machine, 'hostname'), spec.name);
  assert.deepEqual((await loadState(spec.directory))?.layers, { 1: null });
  await end(spec, machine);
});

test('machines outlive their template; the next one boots', { skip }, async () => {
  await park();
  const spec = bed.spec();
  const machine = await bed.boot(spec);
  assert.equal(machine.runtime.startedFrom, 'template');
  await templates.remove(key);
  assert.deepEqual(await templates.keys(), []);
  assert.equal(
    await shell(
      machine,
      'dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null; find / -xdev -type f -exec cat {} + >/dev/null; echo well',
    ),
    'well',
  );
  await end(spec, machine);
  const next = bed.spec();
  const booted = await bed.boot(next);
  assert.equal(booted.runtime.startedFrom, 'image');
  await end(next, booted);
  await park();
});

test('a machine that has a snapshot before its first start keeps it, and boots', { skip }, async () => {
  const spec = bed.spec();
  await bed.driver.prepare(spec);
  await bed.driver.snapshot(spec, 'untouched', undefined);
  const machine = await bed.boot(spec);
  assert.equal(machine.runtime.startedFrom, 'image');
  await shell(machine, 'echo later >/root/later; sync');
  await machine.stop({ graceMs: 0 });
  machine.release();
  await bed.driver.tidy(spec);
  await bed.driver.restore(spec, 'untouched');
  const again = await bed.boot(spec);
  assert.equal(await shell(again, 'ls /root/later 2>/dev/null || echo gone'), 'gone');
  await end(spec, again);
});

/** How long a file of the process may be: the soft limit and the hard one. */
const allowedFor = (pid: number): string[] | undefined =>
  /^Max file size +(\d+) +(\d+) /m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'))?.slice(1);

test('a copy that waits is nobody until it gets an owner, and then at once', { skip }, async () => {
  const { id, directory, limits, image, uidSlot } = bed.spec();
  await templates.preload({ id, directory, limits, image, uidSlot });
  assert.equal(await templates.waits({ id, directory }), true);
  const spec = bed.spec({ id, directory, uidSlot, limits: { ...limits, cpus: 0.5, diskBytes: 2 ** 30 } });
  assert.equal(await bed.driver.adopt(spec), undefined);
  const waiting = await adoptKept(directory);
  assert.ok(waiting);
  const [now] = allowedFor(waiting.initPid) ?? [];
  assert.equal(now, `${layerFileBytes(bed.image.disk?.virtualBytes ?? 0)}`);
  waiting.close();
  const machine = await bed.boot(spec);
  assert.equal(await templates.waits({ id, directory }), false);
  assert.equal(machine.runtime.startedFrom, 'template', machine.runtime.note ?? '');
  assert.equal(await shell(machine, 'hostname'), spec.name);
  await shell(machine, 'ping -c 1 -W 5 192.168.0.1');
  assert.ok(Number(await shell(machine, "df -k / | awk 'NR == 2 { print $2 }'")) > 800 * 1024);
  const most = `${layerFileBytes(2 ** 30)}`; // what its own disk needs, not what a parked one had
  assert.deepEqual(allowedFor(machine.process.pid), [most, most]);
  await end(spec, machine);
});

test(
  'a copy whose worker was killed before it had a name is nobody: the machine begins anew',
  { skip },
  async () => {
    for (const phase of ['loading', 'naming']) {
      const spec = bed.spec();
      const { id, directory, limits, image, uidSlot } = spec;
      await templates.preload({ id, directory, limits, image, uidSlot });
      writeFileSync(join(directory, 'clone.json'), phase);
      const driver = bed.again();
      await driver.prepare(spec);
      const machine = await driver.start(spec);
      await machine.ready({ limitMs: bootMs });
      assert.equal(machine.runtime.startedFrom, 'template');
      assert.equal(await shell(machine, 'hostname'), spec.name);
      await end(spec, machine);
    }
  },
);

test('parking that is called off, or killed, leaves what the next start removes', { skip }, async () => {
  const early = bed.spec();
  const stop = new AbortController();
  const parking = templates.park(early, {
    signal: stop.signal,
    step: (name) => {
      if (name === 'wait until it is idle') setTimeout(() => stop.abort(new Error('enough')), 100);
    },
  });
  await assert.rejects(parking, /enough/);
  await bed.driver.sweep(early.id);
  // as a SIGKILL would leave it: files of a template that is no template yet
  const left = bed.spec();
  await store.begin(left.id);
  assert.deepEqual(makersIn(directoryOf()), [left.id]);
  await templates.sweep(new Set([left.id]));
  assert.deepEqual(makersIn(directoryOf()), [left.id]);
  await templates.sweep(new Set());
  assert.deepEqual(readdirSync(directoryOf()), [key]);
});

test('nothing is left over', { skip }, async () => {
  await sleep(100);
  assert.deepEqual([...(await bed.driver.traces())], []);
  assert.deepEqual(
    linkNames().filter((name) => name.startsWith('t-')),
    [],
  );
  assert.equal(existsSync(join(directoryOf(), key, 'template.json')), true);
});
