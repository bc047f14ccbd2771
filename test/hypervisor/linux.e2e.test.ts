/**
 * Linux in our VMM, as far as this host's KVM goes, told by what comes over the serial line; and the same files in
 * QEMU's emulation, as a witness that kernel and initramfs are good.
 *
 * Two kernels: that of the image `tiny`, Debian's own, whose first lines are looked at (all of it would take minutes
 * where KVM emulates), and which QEMU's emulation takes to a first program of ours; and that of the image `linux`,
 * small, to that program in either. The latter takes some minutes of processor time to build, once: it is built with
 * CARREL_BUILD_KERNEL=1, and used where it is. What devices do is in linux-devices.e2e.test.ts, which needs neither.
 */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { launch, launchOk } from '#host/launch.ts';
import { cpioArchive } from '#images/disk/cpio.ts';
import { openImages } from '#images/store.ts';
import { probeKvm } from '#kvm/probe.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { createLinuxMachine, type LinuxMachineOptions, type LinuxResult } from '#vmm/linux/machine.ts';
import { readKernel } from '#vmm/linux/read-kernel.ts';

const MiB = 2 ** 20;
/** A loaded machine whose KVM emulates. */
const bootMs = 900_000;
const commandLine =
  'console=ttyS0 earlyprintk=serial i8042.nokbd reboot=t panic=1 print-fatal-signals=1 pci=off';

interface Boot {
  readonly text: string;
  readonly result: LinuxResult;
}

/** Runs a machine until it ends, or until `enough` is on the serial line. */
async function boot(options: Omit<LinuxMachineOptions, 'emulated'>, enough?: RegExp): Promise<Boot> {
  const { kind } = await probeKvm();
  using machine = createLinuxMachine({ commandLine, ...options, emulated: kind === 'emulating' });
  const stop = new AbortController();
  let text = '';
  machine.output.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    if (enough?.test(text)) stop.abort();
  });
  const closed = new Promise<void>((resolve) => void machine.output.once('close', resolve));
  const result = await machine.run({ limitMs: bootMs, signal: stop.signal });
  await closed;
  return { text, result };
}

const qemu = '/usr/bin/qemu-system-x86_64';
const withoutQemu = existsSync(qemu) ? undefined : 'QEMU is not installed';

/** All that a guest prints in QEMU's emulation, until it resets its machine. */
async function emulate(machine: 'microvm' | 'q35', kernel: string, initrd: string): Promise<string> {
  const bare = ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'];
  const hardware = ['-machine', machine, '-accel', 'tcg', '-m', '256'];
  const append = 'console=ttyS0 earlyprintk=serial reboot=t panic=1';
  const { stdout } = await launch(
    [qemu, ...bare, ...hardware, '-kernel', kernel, '-initrd', initrd, '-append', append],
    { timeoutMs: 600_000, maxOutputBytes: MiB },
  );
  return stdout.toString('latin1');
}

/** An initramfs with the recipe's first program, and nothing else: what is in initrd.first of the image `linux`. */
async function makeFirst(directory: string): Promise<string> {
  const program = join(directory, 'first');
  const source = join(import.meta.dirname, '../../recipes/linux/files/kernel/first.S');
  await launchOk(['gcc', '-static', '-nostdlib', '-o', program, source], { timeoutMs: 60_000 });
  const initrd = join(directory, 'initrd');
  const data = await readFile(program);
  await writeFile(initrd, cpioArchive([{ path: 'init', kind: 'file', mode: 0o755, data }]));
  return initrd;
}

/** Needs root and a mirror where the image is not there. */
async function imageOf(name: string, kind: 'disk' | 'rootfs', mayBuild: boolean) {
  const images = await openImages();
  const found = (await images.list()).find((image) => image.name === name);
  if (found || !mayBuild) return found;
  return await images.build(name, { kind });
}

suite('Debian’s kernel', { skip: withoutKvm }, () => {
  test(
    'says its name, our command line, the memory map, and that it is in a machine of KVM',
    { timeout: 600_000 },
    async (context) => {
      const kernel = (await imageOf('tiny', 'disk', false))?.kernel;
      if (kernel === undefined) return context.skip('the image tiny is not built here');
      const { text, result } = await boot(
        { kernel: readKernel(await readFile(kernel)), memory: 256 * MiB, vcpus: 3 },
        /Processors: \d+|Allowing \d+ CPUs/,
      );
      assert.equal(result.end.kind, 'stopped', text);
      assert.match(text, /Linux version \d+\.\d+.*cloud-amd64/);
      assert.ok(text.includes(`Command line: ${commandLine}`), text);
      assert.match(text, /\[mem 0x0{16}-0x000000000009fbff\] usable/);
      assert.match(text, /\[mem 0x0000000000100000-0x000000000fffffff\] usable/);
      assert.match(text, /Hypervisor detected: KVM/);
      assert.match(text, /last_pfn = 0x10000 /);
      return undefined;
    },
  );
});

suite('Debian’s kernel in QEMU’s emulation', () => {
  test(
    'runs our first program: kernel, command line and initramfs are good',
    { timeout: 900_000 },
    async (context) => {
      const kernel = (await imageOf('tiny', 'disk', false))?.kernel;
      if (kernel === undefined) return context.skip('the image tiny is not built here');
      if (withoutQemu !== undefined) return context.skip(withoutQemu);
      const directory = await mkdtemp(join(tmpdir(), 'carrel-linux-'));
      try {
        const text = await emulate('q35', kernel, await makeFirst(directory));
        assert.match(text, /Linux version \d+\.\d+.*cloud-amd64/);
        assert.match(text, /Run \/init as init process/);
        assert.match(text, /Hello, world, from the first program!/);
      } finally {
        await rm(directory, { recursive: true });
      }
      return undefined;
    },
  );
});

suite('the small kernel', { skip: withoutKvm }, () => {
  let directory = '';
  let place = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'carrel-linux-'));
    const image = await imageOf('linux', 'rootfs', process.env['CARREL_BUILD_KERNEL'] === '1');
    if (image) place = join(image.path, 'boot');
  });
  after(() => rm(directory, { recursive: true }));
  const missing = 'the image linux is not built here: CARREL_BUILD_KERNEL=1';

  test(
    'boots to its first program, finds its disk, and ends the machine',
    { timeout: 1_200_000 },
    async (context) => {
      if (place === '') return context.skip(missing);
      const { kind } = await probeKvm();
      const path = join(directory, 'disk');
      await writeFile(path, Buffer.alloc(4 * MiB));
      const fd = openSync(path, 'r+');
      try {
        const { text, result } = await boot({
          kernel: readKernel(await readFile(join(place, 'vmlinux'))),
          initrd: await readFile(join(place, 'initrd.first')),
          memory: 128 * MiB,
          devices: [{ kind: 'block', fd, readOnly: false, id: 'test' }],
        });
        assert.match(text, /ttyS0 at I\/O 0x3f8 \(irq = 4, base_baud = 115200\) is a 16550A/);
        assert.match(text, /virtio_blk virtio0: \[vda\] 8192 512-byte logical blocks/);
        assert.match(text, /Run \/init as init process/);
        if (kind === 'emulating') {
          // its first instructions ran (42 * 10 is in R12, the number of write(2) in RAX); syscall did not leave user
          // privilege: RIP is the kernel's, CS the user's
          assert.match(text, /RIP: 0033:0xffffffff8/);
          assert.match(text, /R12: 00000000000001a4/);
          assert.match(text, /RAX: 0000000000000001/);
          assert.match(text, /Attempted to kill init! exitcode=0x0000000b/);
        } else assert.match(text, /Hello, world, from the first program!/);
        assert.deepEqual(result.end, { kind: 'reset', by: 'triple fault' });
      } finally {
        closeSync(fd);
      }
      return undefined;
    },
  );

  test('as many processors come up as the machine has', { timeout: 1_200_000 }, async (context) => {
    if (place === '') return context.skip(missing);
    const kernel = readKernel(await readFile(join(place, 'vmlinux')));
    const { text } = await boot({ kernel, memory: 128 * MiB, vcpus: 2 }, /Brought up [^\n]*\n/);
    assert.match(text, /found SMP MP-table at \[mem 0x000f0000/);
    assert.match(text, /Brought up 1 node, 2 CPUs/);
    return undefined;
  });

  for (const file of ['bzImage', 'vmlinux'])
    test(
      `${file} and initramfs are good: they run in QEMU’s emulation`,
      { timeout: 300_000 },
      async (context) => {
        if (place === '') return context.skip(missing);
        if (withoutQemu !== undefined) return context.skip(withoutQemu);
        const text = await emulate('microvm', join(place, file), join(place, 'initrd.first'));
        assert.match(text, /Hello, world, from the first program!/);
        return undefined;
      },
    );
});
