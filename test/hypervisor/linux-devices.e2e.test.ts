/**
 * The devices of `carrel vmm linux`, from the command line to the rings and back: what boots is a kernel of the test's
 * own (virtio-kernel.c), for Linux needs processors that not every host has. What is beyond the TAP is Linux.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { until, within } from '#base/deadline.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { createLinuxMachine } from '#vmm/linux/machine.ts';
import { readKernel } from '#vmm/linux/read-kernel.ts';
import { linkNames, makeNetns, type Netbed, netnsLeft } from '#test/netbed.ts';
import { probeKvm } from '#kvm/probe.ts';
import { compileKernel, startVmm } from './ourkernel.ts';

const limitMs = 60_000;

suite('the devices of vmm linux', { skip: withoutKvm }, () => {
  let directory = '';
  let kernel = '';
  let disk = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'carrel-devices-'));
    kernel = await compileKernel(directory);
    disk = join(directory, 'disk');
    const bytes = Buffer.alloc(1024);
    bytes.write('the first sector\n');
    await writeFile(disk, bytes);
  });
  after(() => rm(directory, { recursive: true }));

  test('without options the console is the serial port, and there is nothing else', async () => {
    await using vmm = startVmm(['linux', '--kernel', kernel]);
    assert.equal(await vmm.ended(), 0, vmm.notes);
    await vmm.said(/^devices:\nno disk\naccesses 0 notifications 0 interrupts 0\n$/);
    assert.match(vmm.notes, /Guest shutdown: debug exit with status 0\. Bye!/);
  });

  test('--console virtio: hvc0 takes what is typed, and prints', async () => {
    await using vmm = startVmm(['linux', '--kernel', kernel, '--console', 'virtio', '--disk', disk]);
    await vmm.said(/^devices: disk console\n$/);
    vmm.type('hello, console\n');
    await vmm.said(/\nHELLO, CONSOLE\n$/);
    vmm.type('disk\n');
    await vmm.said(/\nsector 0: the first sector\n$/);
    vmm.type('a\nb\nquit\n');
    assert.equal(await vmm.ended(), 0, vmm.notes);
    await vmm.said(/\nA\nB\naccesses \d+ notifications \d+ interrupts \d+\n$/);
  });

  test('where KVM cannot go on, the command says at which instruction, and fails', async () => {
    const apart = await mkdtemp(join(tmpdir(), 'carrel-stuck-'));
    try {
      const source = join(apart, 'stuck.S');
      // an emulating KVM does not know popcnt
      const text = '.globl _start\n_start: popcnt %rsp, %rax\n mov $1, %al\n outb %al, $0xf4\n hlt\n';
      await writeFile(source, text);
      await using vmm = startVmm(['linux', '--kernel', await compileKernel(apart, source)]);
      assert.equal(await vmm.ended(), 1, vmm.notes);
      const { kind } = await probeKvm();
      assert.match(
        vmm.notes,
        kind === 'emulating'
          ? /Guest shutdown: vCPU 0 cannot go on at 0x101000: INTERNAL_ERROR, .* \(f3480fb8c4/
          : /Guest shutdown: debug exit with status 1/,
      );
    } finally {
      await rm(apart, { recursive: true });
    }
  });

  test('a command line of one’s own is the one that counts', async () => {
    const named = `path=${kernel},cmdline=console=ttyS0 quiet`;
    await using vmm = startVmm(['linux', '--kernel', named, '--console', 'virtio', '--json']);
    assert.equal(await vmm.ended(), 0, vmm.notes);
    await vmm.said(/"commandLine": *"console=ttyS0 quiet( |")[^"]*virtio_mmio\.device=/);
    await vmm.said(/devices: console/);
  });

  test('much is typed and printed: nothing is lost, and the last words come out', async () => {
    await using vmm = startVmm(['linux', '--kernel', kernel, '--console', 'virtio']);
    await vmm.said(/^devices: console\n$/);
    const lines = Array.from({ length: 500 }, (_, index) => `line ${index} ${'x'.repeat(300)}`);
    vmm.type(`${lines.join('\n')}\nquit\n`);
    assert.equal(await vmm.ended(), 0, vmm.notes);
    const [text = ''] = await vmm.said(/^[^]*accesses.*\n$/);
    assert.deepEqual(
      text.split('\n').slice(1, -2),
      lines.map((line) => line.toUpperCase()),
    );
  });

  test('a notification is no exit, and an interrupt needs none: ioeventfd and irqfd', async () => {
    const before = holdings();
    {
      using machine = createLinuxMachine({ kernel: readKernel(await readFile(kernel)), console: 'virtio' });
      let text = '';
      machine.output.on('data', (chunk: Buffer) => void (text += chunk.toString('latin1')));
      const closed = new Promise<void>((resolve) => void machine.output.once('close', resolve));
      const running = machine.run({ limitMs });
      const said = async (words: RegExp): Promise<RegExpMatchArray> =>
        await until(limitMs, String(words), () => text.match(words) ?? undefined);
      await said(/console\n$/);
      const rounds = 20;
      for (let round = 0; round < rounds; round += 1) {
        // the guest sleeps in HLT until it is interrupted
        machine.type(Buffer.from(`round ${round}\n`));
        await said(new RegExp(`\nROUND ${round}\n$`));
      }
      machine.type(Buffer.from('quit\n'));
      const { end, vcpus } = await within(limitMs, 'the end', running);
      await closed;
      assert.deepEqual(end, { kind: 'exit', status: 0 });
      const counts = /accesses (\d+) notifications (\d+) interrupts (\d+)\n$/.exec(text);
      const [accesses = 0, notifications = 0, interrupts = 0] = (counts ?? []).slice(1).map(Number);
      // two notifications a line: the answer, and a new buffer; those of the last words are not in the count
      assert.ok(notifications >= 2 * rounds, text);
      assert.ok(interrupts >= rounds && interrupts <= rounds + 2, text);
      assert.equal(vcpus[0]?.exits.byReason['MMIO'], accesses);
    }
    const left = holdings();
    assert.deepEqual([left.fds, left.mappings], [before.fds, before.mappings]);
  });
});

const skipNet = withoutKvm || (process.getuid?.() === 0 ? false : 'needs root');

suite('the network card of vmm linux', { skip: skipNet }, () => {
  const links = linkNames();
  let directory = '';
  let kernel = '';
  let bed: Netbed;
  const ip = async (...words: readonly string[]): Promise<void> => {
    const { status, stderr } = await bed.run('ip', ...words);
    assert.equal(status, 0, stderr.toString());
  };
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'carrel-card-'));
    kernel = await compileKernel(directory);
    bed = await makeNetns();
    await ip('tuntap', 'add', 'dev', 'tap0', 'mode', 'tap');
    await ip('address', 'add', '192.168.77.1/24', 'dev', 'tap0');
    await ip('link', 'set', 'tap0', 'up');
  });
  after(async () => {
    await bed[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
    assert.deepEqual(netnsLeft(), []);
    assert.deepEqual(linkNames(), links);
  });

  const start = (tap: string) =>
    startVmm(['linux', '--kernel', kernel, '--console', 'virtio', '--tap', tap], { netns: bed.pid });
  const refused = async (tap: string): Promise<string> => {
    await using vmm = start(tap);
    assert.notEqual(await vmm.ended(), 0);
    return vmm.notes;
  };

  test('Linux reaches the guest through the TAP: address resolution and echo, there and back', async () => {
    await using vmm = start('tap0');
    await vmm.said(/^devices: net console\n$/);
    const ping = await bed.run('busybox', 'ping', '-c', '3', '-W', '10', '192.168.77.2');
    assert.equal(ping.status, 0, ping.stdout.toString());
    assert.match(ping.stdout.toString(), /3 packets received/);
    const neighbour = await bed.run('ip', 'neighbour', 'show', '192.168.77.2');
    assert.match(neighbour.stdout.toString(), /lladdr 02:/);
    vmm.type('quit\n');
    assert.equal(await vmm.ended(), 0, vmm.notes);
    assert.doesNotMatch(vmm.notes, /is down/);
  });

  test('a TAP carries one machine at a time, and is free when that has ended', async () => {
    await using first = start('tap0');
    await first.said(/^devices: net console\n$/);
    const notes = await refused('tap0');
    assert.match(notes, /tap0 is in use by another program/);
    assert.match(notes, /make a second TAP/);
    first.child.kill('SIGKILL');
    assert.equal(await first.ended(), 'SIGKILL');
    await using second = start('tap0');
    await second.said(/^devices: net console\n$/);
  });

  test('one that is missing is not made, and what is no TAP is none', async () => {
    const notes = await refused('tap9');
    assert.match(notes, /there is no TAP device tap9/);
    assert.match(notes, /ip tuntap add dev tap9 mode tap/);
    assert.equal((await bed.run('ip', 'link', 'show', 'tap9')).status, 1);
    assert.match(await refused('lo'), /lo is no TAP device/);
    await ip('tuntap', 'add', 'dev', 'tun0', 'mode', 'tun');
    assert.match(await refused('tun0'), /tun0 is no TAP device/);
    assert.match(await refused('../tap0'), /no name of a network interface/);
  });

  test('one that is down is told of', async () => {
    await ip('tuntap', 'add', 'dev', 'tap1', 'mode', 'tap');
    await using vmm = start('tap1');
    await vmm.said(/^devices: net console\n$/);
    assert.match(vmm.notes, /tap1 is down, .* ip link set tap1 up/);
    vmm.type('quit\n');
    assert.equal(await vmm.ended(), 0, vmm.notes);
  });
});
