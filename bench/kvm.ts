/**
 * The hypervisor against a VMM in C that does the least that can be done (kvm.c): exits in a second, vCPUs side by
 * side, and a hello from the creation of the machine to its end. Interleaved, so that a busy moment hits both.
 *
 *   node bench/kvm.ts [--exits N] [--rounds N] [--json]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { launchOk } from '#host/launch.ts';
import { compileGuest, kit } from '#vmm/image/compile.ts';
import { flatImage } from '#vmm/image/image.ts';
import { createMachine } from '#vmm/machine.ts';
import { long } from '#vmm/modes/long.ts';
import { quantile, report } from './measure.ts';

const { values } = parseArgs({
  options: {
    exits: { type: 'string', default: '50000' },
    rounds: { type: 'string', default: '11' },
    json: { type: 'boolean', default: false },
  },
});
const exits = Number(values.exits);
const rounds = Number(values.rounds);

/** 1: out %al,%dx; dec %rcx; jnz 1b; hlt: ours sets RCX and RDX itself, C has them from its registers. */
const loop = [0xee, 0x48, 0xff, 0xc9, 0x75, 0xfa, 0xf4];
const setUp = [0xb9, ...new Uint8Array(Uint32Array.of(exits).buffer), 0xba, 0xe9, 0, 0, 0];
const portLoop = flatImage(Uint8Array.of(...setUp, ...loop));
const hello = await compileGuest(join(kit, 'examples', 'hello.c'), long);

interface Sample {
  /** Milliseconds from the first instruction to the last HLT. */
  readonly loopMs: number;
  /** Milliseconds from before the machine is made to its last HLT. */
  readonly totalMs: number;
  /** Processor time of the whole process, microseconds for each exit. */
  readonly cpuUs: number;
  readonly exits: number;
}

const directory = mkdtempSync(join(tmpdir(), 'carrel-bench-kvm-'));
const program = join(directory, 'kvm');
const cSource = new URL('kvm.c', import.meta.url).pathname;

const said = z.strictObject({ totalNs: z.int(), loopNs: z.int(), cpuNs: z.int(), exits: z.int() });

async function runC(vcpus: number, image: Uint8Array): Promise<Sample> {
  const hex = Buffer.from(image).toString('hex');
  const { stdout } = await launchOk([program, String(vcpus), String(exits), hex], { timeoutMs: 120_000 });
  const { totalNs, loopNs, cpuNs, exits: done } = said.parse(JSON.parse(stdout.toString('utf8')));
  return { loopMs: loopNs / 1e6, totalMs: totalNs / 1e6, cpuUs: cpuNs / 1e3 / done, exits: done };
}

async function runOurs(vcpus: number, image: typeof portLoop, trace = false): Promise<Sample> {
  const cpu = process.cpuUsage();
  const began = performance.now();
  using machine = createMachine({ mode: 'long', image, vcpus });
  const results = await machine.run({ trace, limitMs: 120_000, outputLimit: 2 ** 26 });
  const totalMs = performance.now() - began;
  const { user, system } = process.cpuUsage(cpu);
  const done = results.reduce((sum, { exits, end }) => {
    if (end.kind !== 'halted') throw new Error(end.kind);
    return sum + exits.total;
  }, 0);
  return {
    loopMs: Math.max(...results.map(({ ms }) => ms)),
    totalMs,
    cpuUs: (user + system) / done,
    exits: done,
  };
}

const helloBytes = hello.parts[0]?.bytes ?? new Uint8Array();
const nothing = flatImage(Uint8Array.of(0xf4));
const contestants: Readonly<Record<string, () => Promise<Sample>>> = {
  'exits, C': () => runC(1, portLoop.parts[0]?.bytes ?? new Uint8Array()),
  'exits, carrel': () => runOurs(1, portLoop),
  'exits, carrel with trace': () => runOurs(1, portLoop, true),
  'exits on 2 vCPUs, C': () => runC(2, portLoop.parts[0]?.bytes ?? new Uint8Array()),
  'exits on 2 vCPUs, carrel': () => runOurs(2, portLoop),
  'hello, C': () => runC(1, helloBytes),
  'hello, carrel in a warm process': () => runOurs(1, hello),
  'create to the first exit, carrel in a warm process': () => runOurs(1, nothing),
};

/** What a cold process needs before: Node itself, and the first thread of a vCPU. */
async function coldStarts(): Promise<Record<string, string | number>[]> {
  const samples: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const began = performance.now();
    await launchOk([process.execPath, '-e', '0']);
    samples.push(performance.now() - began);
  }
  return [
    { what: 'Node’s own start and end', 'p50 ms': quantile(samples, 0.5), 'min ms': Math.min(...samples) },
  ];
}

try {
  await launchOk(['gcc', '-O2', '-Wall', '-Werror', '-pthread', '-o', program, cSource]);
  const samples = new Map(Object.keys(contestants).map((name) => [name, [] as Sample[]]));
  for (let round = -2; round < rounds; round += 1)
    for (const [name, run] of Object.entries(contestants)) {
      const sample = await run();
      if (round >= 0) samples.get(name)?.push(sample);
    }
  const rows = [...samples].map(([name, all]) => {
    const perSecond = all.map(({ exits, loopMs }) => exits / (loopMs / 1000));
    const isLoop = name.startsWith('exits');
    return {
      what: name,
      'exits/s p50': isLoop ? Math.round(quantile(perSecond, 0.5)) : '',
      'exits/s best': isLoop ? Math.round(Math.max(...perSecond)) : '',
      'cpu us/exit p50': isLoop
        ? quantile(
            all.map(({ cpuUs }) => cpuUs),
            0.5,
          )
        : '',
      'cpu us/exit min': isLoop ? Math.min(...all.map(({ cpuUs }) => cpuUs)) : '',
      'p50 ms': quantile(
        all.map(({ totalMs }) => totalMs),
        0.5,
      ),
      'min ms': Math.min(...all.map(({ totalMs }) => totalMs)),
    };
  });
  report(`hypervisor: ${exits} exits in a loop, ${rounds} rounds interleaved`, [
    ...rows,
    ...(await coldStarts()),
  ]);
} finally {
  rmSync(directory, { recursive: true });
}
