/**
 * The hypervisor against a VMM in C that does the least that can be done (kvm.c): exits in a second, vCPUs side by
 * side, and a hello from the creation of the machine to its end. Interleaved, so that a busy moment hits both.
 *
 * A warm process has made so many machines before that V8 has compiled what making one takes; the first ones of a
 * process are slower, and are shown too.
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
/** Machines after which a process is warm. */
const warmUp = 150;
/** Short runs take a millisecond: more of them say more. */
const shortRounds = rounds * 10;

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
const loopBytes = portLoop.parts[0]?.bytes ?? new Uint8Array();
type Contestants = Readonly<Record<string, () => Promise<Sample>>>;

const loops: Contestants = {
  'exits, C': () => runC(1, loopBytes),
  'exits, carrel': () => runOurs(1, portLoop),
  'exits, carrel with trace': () => runOurs(1, portLoop, true),
  'exits on 2 vCPUs, C': () => runC(2, loopBytes),
  'exits on 2 vCPUs, carrel': () => runOurs(2, portLoop),
};

const shorts: Contestants = {
  'hello, C': () => runC(1, helloBytes),
  'hello, carrel': () => runOurs(1, hello),
  // its one instruction is hlt: what is measured is all around it, the report back included
  'create to the first instruction and back, carrel': () => runOurs(1, nothing),
};

/** So many rounds, in each of them everybody once. */
async function interleaved(contestants: Contestants, many: number): Promise<Map<string, Sample[]>> {
  const samples = new Map(Object.keys(contestants).map((name) => [name, [] as Sample[]]));
  for (let round = 0; round < many; round += 1)
    for (const [name, run] of Object.entries(contestants)) samples.get(name)?.push(await run());
  return samples;
}

type Row = Record<string, string | number>;

function loopRow(what: string, all: readonly Sample[]): Row {
  const perSecond = all.map(({ exits, loopMs }) => exits / (loopMs / 1000));
  const cpuUs = all.map((sample) => sample.cpuUs);
  return {
    what,
    'exits/s p50': Math.round(quantile(perSecond, 0.5)),
    'exits/s best': Math.round(Math.max(...perSecond)),
    'cpu us/exit p50': quantile(cpuUs, 0.5),
    'cpu us/exit min': Math.min(...cpuUs),
  };
}

function shortRow(what: string, ms: readonly number[]): Row {
  return { what, 'min ms': Math.min(...ms), 'p10 ms': quantile(ms, 0.1), 'p50 ms': quantile(ms, 0.5) };
}

/** Node itself, which a cold process needs before. */
async function nodeStarts(): Promise<number[]> {
  const samples: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const began = performance.now();
    await launchOk([process.execPath, '-e', '0']);
    samples.push(performance.now() - began);
  }
  return samples;
}

try {
  await launchOk(['gcc', '-O2', '-Wall', '-Werror', '-pthread', '-o', program, cSource]);
  const first = (await runOurs(1, hello)).totalMs;
  const next: number[] = [];
  for (let count = 1; count < warmUp; count += 1) next.push((await runOurs(1, hello)).totalMs);
  const short = await interleaved(shorts, shortRounds);
  await interleaved(loops, 1);
  const long = await interleaved(loops, rounds);
  report(
    `hypervisor: ${exits} exits in a loop, ${rounds} rounds interleaved`,
    [...long].map(([name, all]) => loopRow(name, all)),
  );
  report(`hypervisor: short runs, ${shortRounds} rounds interleaved, after ${warmUp} others`, [
    ...[...short].map(([name, all]) =>
      shortRow(
        name,
        all.map(({ totalMs }) => totalMs),
      ),
    ),
    shortRow('hello, carrel, the first of a process', [first]),
    shortRow('hello, carrel, the second to the tenth', next.slice(0, 9)),
    shortRow('Node’s own start and end', await nodeStarts()),
  ]);
} finally {
  rmSync(directory, { recursive: true });
}
