/**
 * virtio-net: frames that one guest (virtio-net.c) sends into a TAP, in our VMM and in QEMU with KVM and with emulation.
 * The TAP is in a network namespace of the benchmark's own, where nobody listens: what is measured is the way there.
 * The first row has no guest: as many write(2) of such frames from here, which is what a device cannot beat.
 * Interleaved, so that a busy moment hits all.
 *
 *   sudo node bench/virtio-net.ts [--rounds N] [--json]
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openLinks } from '#fabric/netlink/links.ts';
import { inNetns } from '#fabric/netns.ts';
import { openTap } from '#fabric/tap.ts';
import { launchOk } from '#host/launch.ts';
import { syscall } from '#host/syscalls.ts';
import { makeNetns } from '#test/netbed.ts';
import { guestCommand, kit } from '#vmm/image/compile.ts';
import { createLinuxMachine } from '#vmm/linux/machine.ts';
import { readKernel } from '#vmm/linux/read-kernel.ts';
import { tapPort, vnetHeaderBytes } from '#vmm/virtio/net/tap.ts';
import { quantile, report } from './measure.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '7' }, json: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds);

/** Bytes of a frame, and how many of them: some tenths of a second each. */
const plans = [
  { name: '64 bytes', bytes: 64, count: 16_384 },
  { name: '1514 bytes', bytes: 1514, count: 16_384 },
] as const;
type Plan = (typeof plans)[number];

const mac = '02:00:00:00:00:01';
const limitMs = 120_000;
const directory = mkdtempSync(join(tmpdir(), 'carrel-bench-net-'));

/** The guest for this plan, with the registers of its card at an address. */
async function build({ bytes, count }: Plan, bits: 32 | 64, address: number): Promise<string> {
  const program = join(directory, `${bits}-${bytes}.elf`);
  const sources = ['virtio-entry.S', 'virtio-net.c'].map((name) => join(import.meta.dirname, name));
  const [gcc, ...flags] = guestCommand({ bits }, { kit, sources, output: program, start: false });
  const ownScript = flags.filter((flag) => !flag.startsWith('-Wl,-T,'));
  const macros = [`FRAME_BYTES=${bytes}`, `FRAMES=${count}`, `DISK_ADDRESS=0x${address.toString(16)}`];
  await launchOk([
    gcc,
    ...ownScript,
    '-Wno-unused-function', // of the kit's disk only the rings are of use
    ...macros.map((macro) => `-D${macro}`),
    '-Wl,-Ttext-segment=0x100000',
  ]);
  return program;
}

/** Milliseconds from the guest's 's' to its 'e'. */
async function watch(output: AsyncIterable<unknown>): Promise<number> {
  let began = Number.NaN;
  let ms = Number.NaN;
  for await (const chunk of output) {
    const text = String(chunk);
    if (text.includes('!')) throw new Error('the guest found no network card');
    if (text.includes('s')) began = performance.now();
    if (text.includes('e')) ms = performance.now() - began;
  }
  if (Number.isNaN(ms)) throw new Error('the guest did not come to its end');
  return ms;
}

function writeFrames(tap: number, { bytes, count }: Plan): number {
  tapPort(tap); // sets the size of the header
  const frame = new Uint8Array(vnetHeaderBytes + bytes);
  frame.fill(0xff, vnetHeaderBytes, vnetHeaderBytes + 6);
  frame.set([2, 2, 2, 2, 2, 2, 0x88, 0xb5], vnetHeaderBytes + 6);
  const began = performance.now();
  for (let sent = 0; sent < count; sent += 1) syscall('write', tap, frame, frame.length);
  return performance.now() - began;
}

async function runOurs(tap: number, plan: Plan): Promise<number> {
  const kernel = readKernel(readFileSync(await build(plan, 64, 0xd000_0000)));
  using machine = createLinuxMachine({ kernel, devices: [{ kind: 'net', tap, mac }] });
  const watched = watch(machine.output);
  const { end } = await machine.run({ limitMs });
  if (end.kind !== 'exit') throw new Error(`our guest: ${end.kind}`);
  return await watched;
}

/** As bare as QEMU is: no firmware's devices, one virtio slot in use, the newer interface. */
async function runQemu(tap: number, plan: Plan, accelerator: 'kvm' | 'tcg'): Promise<number> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      '-M microvm -m 64 -nodefaults -no-user-config -display none -accel',
      accelerator,
      '-global virtio-mmio.force-legacy=false -kernel',
      await build(plan, 32, 0xfeb0_2e00), // where its microvm has the slot that it fills first
      '-serial stdio -device isa-debug-exit,iobase=0xf4',
      `-netdev tap,id=net,fd=3 -device virtio-net-device,netdev=net,mac=${mac}`,
    ].flatMap((words) => words.split(' ')),
    { stdio: ['ignore', 'pipe', 'ignore', tap], timeout: limitMs },
  );
  if (!child.stdout) throw new Error('QEMU has no output');
  return await watch(child.stdout);
}

try {
  await using bed = await makeNetns();
  using tap = inNetns(bed.pid, () => openTap('tap0'));
  {
    using links = inNetns(bed.pid, () => openLinks());
    await links.setUp('tap0');
  }
  const contestants: Readonly<Record<string, (plan: Plan) => Promise<number>>> = {
    'write(2), no guest': async (plan) => writeFrames(tap.fd, plan),
    carrel: (plan) => runOurs(tap.fd, plan),
    'QEMU, KVM': (plan) => runQemu(tap.fd, plan, 'kvm'),
    'QEMU, emulation': (plan) => runQemu(tap.fd, plan, 'tcg'),
  };
  const rows: Record<string, string | number>[] = [];
  for (const plan of plans) {
    const samples = new Map(Object.keys(contestants).map((name) => [name, [] as number[]]));
    for (let round = -1; round < rounds; round += 1)
      for (const [name, run] of Object.entries(contestants)) {
        const ms = await run(plan);
        if (round >= 0) samples.get(name)?.push(ms);
      }
    for (const [name, all] of samples) {
      const perSecond = (ms: number): number => Math.round(plan.count / (ms / 1000));
      rows.push({
        frame: plan.name,
        what: name,
        'frames/s p50': perSecond(quantile(all, 0.5)),
        'frames/s best': perSecond(Math.min(...all)),
        'us/frame best': (Math.min(...all) * 1000) / plan.count,
      });
    }
  }
  report(`virtio-net: frames sent into a TAP, eight with a notification, ${rounds} rounds interleaved`, rows);
} finally {
  rmSync(directory, { recursive: true });
}
