/** Copies of a parked Debian with the real QEMU, looked at from outside: what a client of SSH sees of them on the wire. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import type { MachineSpec } from '../../../driver.ts';
import { makeVmBed, skip } from '../testing.ts';
import { openImages } from '#images/store.ts';

const debian = skip ? undefined : await (await openImages()).find('debian-12-disk', { kind: 'disk' });
const why = skip || (debian ? false : 'the disk is not built: carrel image build debian-12-disk');

const facts = [
  'hostname',
  'cat /etc/machine-id',
  'cat /proc/sys/kernel/random/boot_id',
  'head -c 16 /dev/urandom | base64',
  'cat /sys/class/net/eth0/address',
];

/** The host key that a client is shown, whoever it is. */
const keyOnTheWire = (address: string): Promise<string> =>
  until(
    60_000,
    `the host key of ${address}`,
    async () => {
      const { stdout } = await launch(['ssh-keyscan', '-t', 'ed25519', '-T', '30', address]);
      return stdout.toString().trim().split(' ')[2];
    },
    { everyMs: 500 },
  );

test(
  'copies of a parked Debian are machines of their own, to systemd and to who comes in by ssh',
  { skip: why },
  async (t) => {
    const bed = await makeVmBed();
    t.after(() => bed[Symbol.asyncDispose]());
    const scratch = mkdtempSync(join(tmpdir(), 'carrel-debian-'));
    t.after(() => rmSync(scratch, { recursive: true, force: true }));
    const key = join(scratch, 'key');
    await launch(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key]);
    const spec = (): MachineSpec =>
      bed.spec({
        image: debian?.hash ?? assert.fail(),
        limits: { cpus: 1, memoryBytes: 384 * 2 ** 20, processes: 64, diskBytes: 2 * 2 ** 30 },
        sshKeys: [readFileSync(`${key}.pub`, 'utf8').trim()],
      });
    const early = spec();
    assert.ok(bed.driver.templates);
    const signal = new AbortController().signal;
    await bed.driver.templates.park(early, { signal, step: () => undefined });
    await bed.driver.sweep(early.id);

    const specs = [spec(), spec()];
    const machines = await Promise.all(specs.map((each) => bed.boot(each)));
    for (const { runtime } of machines) assert.equal(runtime.startedFrom, 'template', runtime.note ?? '');

    const known = join(scratch, 'known');
    const options = ['BatchMode=yes', 'StrictHostKeyChecking=accept-new', `UserKnownHostsFile=${known}`];
    const inside = async (address: string, script: string): Promise<string[]> => {
      const settings = options.flatMap((option) => ['-o', option]);
      const client = ['ssh', '-i', key, ...settings, `root@${address}`, script] as const;
      const { status, stdout, stderr } = await launch([...client], { timeoutMs: 120_000 });
      assert.equal(status, 0, stderr.toString());
      return stdout.toString().trim().split('\n');
    };
    const seen = await Promise.all(
      specs.map(async ({ name, network: { address, mac } }) => {
        const wire = await keyOnTheWire(address);
        const lines = await inside(address, facts.join('; '));
        assert.deepEqual([lines[0], lines[4]], [name, mac]);
        const [own = ''] = await inside(address, 'cut -d" " -f2 /etc/ssh/ssh_host_ed25519_key.pub');
        assert.equal(wire, own);
        // nothing lies over its name, and the init of the parked machine had its own
        assert.deepEqual(await inside(address, 'grep -c machine-id /proc/self/mountinfo || true'), ['0']);
        assert.deepEqual(await inside(address, 'systemctl is-system-running --wait'), ['running']);
        return [...lines, wire];
      }),
    );
    const [one = [], other = []] = seen;
    assert.equal(one.length, facts.length + 1);
    for (const [index, fact] of one.entries()) assert.notEqual(fact, other[index]);
    for (const [index, machine] of machines.entries()) {
      await machine.stop({ graceMs: 0 });
      machine.release();
      await bed.driver.remove(specs[index] ?? assert.fail());
    }
  },
);
