/**
 * virtio-blk: MiB/s of one guest (virtio.c) that reads its disk, one request at a time, in our VMM and in QEMU with
 * KVM and with emulation. The image is in the host's page cache: what is measured is the way there and back.
 * Interleaved, so that a busy moment hits all.
 *
 *   node bench/virtio.ts [--rounds N] [--json]
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, closeSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { launchOk } from '#host/launch.ts';
import { compileGuest, guestCommand, kit } from '#vmm/image/compile.ts';
import { createMachine } from '#vmm/machine.ts';
import { protectedMode } from '#vmm/modes/protected.ts';
import { quantile, report } from './measure.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '7' }, json: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds);

const diskBytes = 64 * 2 ** 20;
/** A request, and how many of them: some tenths of a second each. */
const plans = [
  { name: '4 KiB', sectors: 8, count: 8192 },
  { name: '128 KiB', sectors: 256, count: 2048 },
];
type Plan = (typeof plans)[number];

const directory = mkdtempSync(join(tmpdir(), 'carrel-bench-virtio-'));
const disk = join(directory, 'disk');
const program = join(directory, 'guest.elf');
const source = join(import.meta.dirname, 'virtio.c');
const limitMs = 120_000;

/** The guest finds its plan in the first sector. */
function makeDisk({ sectors, count }: Plan): void {
  const fd = openSync(disk, 'r+');
  writeSync(fd, new Uint8Array(Uint32Array.of(sectors, count).buffer), 0, 8, 0);
  closeSync(fd);
}

/** Milliseconds from the guest's 's' to its 'e'. */
class Watch {
  #began = Number.NaN;
  ms = Number.NaN;

  hear(text: string): void {
    if (text.includes('!')) throw new Error('the guest could not read its disk');
    if (text.includes('s')) this.#began = performance.now();
    if (text.includes('e')) this.ms = performance.now() - this.#began;
  }
}

const image = await compileGuest(source, protectedMode);

async function runOurs(): Promise<number> {
  using machine = createMachine({ mode: 'protected', image });
  const watch = new Watch();
  const [result] = await machine.run({
    disk: { path: disk },
    limitMs,
    onLine: (_, line) => watch.hear(line),
  });
  if (result?.end.kind !== 'halted') throw new Error(`our guest: ${result?.end.kind}`);
  return watch.ms;
}

/** As bare as QEMU is: no firmware's devices, one virtio slot in use, the newer interface. */
async function runQemu(accelerator: 'kvm' | 'tcg'): Promise<number> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      '-M microvm -m 64 -nodefaults -no-user-config -display none -accel',
      accelerator,
      '-global virtio-mmio.force-legacy=false -kernel',
      program,
      '-chardev stdio,id=out -device isa-debugcon,iobase=0xe9,chardev=out -device isa-debug-exit,iobase=0xf4',
      `-drive file=${disk},format=raw,if=none,id=disk -device virtio-blk-device,drive=disk`,
    ].flatMap((words) => words.split(' ')),
    { stdio: ['ignore', 'pipe', 'ignore'], timeout: limitMs },
  );
  const watch = new Watch();
  for await (const chunk of child.stdout) watch.hear(String(chunk));
  if (Number.isNaN(watch.ms)) throw new Error(`QEMU (${accelerator}) did not run the guest to its end`);
  return watch.ms;
}

const contestants = {
  carrel: runOurs,
  'QEMU, KVM': () => runQemu('kvm'),
  'QEMU, emulation': () => runQemu('tcg'),
} as const;

try {
  writeFileSync(disk, '');
  truncateSync(disk, diskBytes);
  // where QEMU's microvm has the slot that it fills first
  const [gcc, ...flags] = guestCommand(
    { bits: 32 },
    { kit, sources: [join(import.meta.dirname, 'virtio-entry.S'), source], output: program, start: false },
  );
  const ownScript = flags.filter((flag) => !flag.startsWith('-Wl,-T,'));
  await launchOk([gcc, ...ownScript, '-DDISK_ADDRESS=0xfeb02e00', '-Wl,-Ttext-segment=0x100000']);
  const rows: Record<string, string | number>[] = [];
  for (const plan of plans) {
    makeDisk(plan);
    const samples = new Map(Object.keys(contestants).map((name) => [name, [] as number[]]));
    for (let round = -1; round < rounds; round += 1)
      for (const [name, run] of Object.entries(contestants)) {
        const ms = await run();
        if (round >= 0) samples.get(name)?.push(ms);
      }
    for (const [name, all] of samples) {
      const mib = (plan.sectors * plan.count) / 2048;
      rows.push({
        request: plan.name,
        what: name,
        'MiB/s p50': mib / (quantile(all, 0.5) / 1000),
        'MiB/s best': mib / (Math.min(...all) / 1000),
        'us/request p50': (quantile(all, 0.5) * 1000) / plan.count,
        'us/request best': (Math.min(...all) * 1000) / plan.count,
      });
    }
  }
  report(`virtio-blk: reads of a cached image, one at a time, ${rounds} rounds interleaved`, rows);
} finally {
  rmSync(directory, { recursive: true });
}
