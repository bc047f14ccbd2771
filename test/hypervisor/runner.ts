/**
 * The hypervisor's two doors, the library and the command line, as one interface: the same cases run through both.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { launch } from '#host/launch.ts';
import { describeEnd } from '#vmm/end.ts';
import { loadGuest } from '#vmm/image/compile.ts';
import { mapOf } from '#vmm/inspect/map.ts';
import { allRegisters } from '#vmm/inspect/registers.ts';
import { AddressSpace } from '#vmm/addresses.ts';
import { flatImage } from '#vmm/image/image.ts';
import { createMachine } from '#vmm/machine.ts';
import type { ModeName } from '#vmm/modes/mode.ts';
import { modes } from '#vmm/modes/table.ts';

export interface GuestRun {
  /** A file of the kit, or `{ c: 'int main...' }`, or `{ asm: '...' }`. */
  readonly guest: string | { readonly c: string } | { readonly asm: string };
  readonly mode?: ModeName;
  readonly vcpus?: number;
  readonly share?: string;
  readonly limitMs?: number;
  readonly ports?: string;
}

export interface VcpuOutcome {
  readonly output: string;
  /** The sentence. */
  readonly end: string;
  readonly kind: string;
  readonly exits: number;
  readonly byReason: Readonly<Record<string, number>>;
  readonly rax: bigint;
}

export interface Outcome {
  readonly vcpus: readonly VcpuOutcome[];
  /** The word at 0x400 of the first window. */
  readonly at400: number;
}

/** The machine before its first instruction, and translations in it. */
export interface Beginning {
  readonly registers: Readonly<Record<string, bigint>>;
  readonly memoryBytes: number;
  /** Entry 0 of PML4, PDPT and PD. */
  readonly entries: readonly bigint[];
}

export interface Hypervisor {
  run(directory: string, run: GuestRun): Promise<Outcome>;
  begin(): Promise<Beginning>;
  /** Guest-physical address, or why there is none. */
  walk(address: bigint): Promise<bigint | string>;
}

const root = fileURLToPath(new URL('../..', import.meta.url));

/** The guest as a file. */
async function fileOf(directory: string, guest: GuestRun['guest']): Promise<string> {
  if (typeof guest === 'string') return join(root, 'guests', guest);
  const [name, text] =
    'c' in guest ? ['guest.c', `#include "carrel.h"\n${guest.c}\n`] : ['guest.s', guest.asm];
  await writeFile(join(directory, name), text);
  return join(directory, name);
}

export const library: Hypervisor = {
  async run(directory, { guest, mode = 'long', vcpus = 1, share, limitMs, ports }) {
    const image = await loadGuest(await fileOf(directory, guest), modes[mode]);
    using machine = createMachine({ mode, image, vcpus });
    const results = await machine.run({
      ...(share !== undefined && { share }),
      ...(limitMs !== undefined && { limitMs }),
      ...(ports !== undefined && { ports }),
    });
    return {
      vcpus: results.map(({ output, end, exits, registers }) => ({
        output,
        end: describeEnd(end),
        kind: end.kind,
        exits: exits.total,
        byReason: exits.byReason,
        rax: registers.rax,
      })),
      at400: machine.memory.view.getUint16(0x400, true),
    };
  },
  begin() {
    using machine = createMachine({ mode: 'long', image: flatImage(new Uint8Array()) });
    const [first] = machine.vcpus;
    assert.ok(first);
    const { tables } = mapOf(machine, first, 0);
    return Promise.resolve({
      registers: allRegisters(first.vcpu),
      memoryBytes: machine.memory.length,
      entries: tables.map(({ entries }) => entries[0]?.entry ?? 0n),
    });
  },
  walk(address) {
    using machine = createMachine({ mode: 'long', image: flatImage(new Uint8Array()) });
    const [first] = machine.vcpus;
    assert.ok(first);
    const { result } = new AddressSpace(first.layout, first.vcpu.special()).walk(address);
    return Promise.resolve(result.mapped ? result.physical : result.why);
  },
};

/** What `--json` prints, as far as the cases look at it. */
const runJson = z.object({
  vcpus: z.array(
    z.object({
      output: z.string(),
      end: z.object({ kind: z.string(), sentence: z.string() }),
      exits: z.object({ total: z.int(), byReason: z.record(z.string(), z.int()) }),
      registers: z.record(z.string(), z.string()),
    }),
  ),
  memory: z.array(z.object({ bytes: z.string() })),
});
const mapJson = z.object({
  memory: z.object({ bytes: z.int() }),
  vcpus: z.array(
    z.object({
      registers: z.record(z.string(), z.string()),
      tables: z.array(z.object({ entries: z.array(z.object({ entry: z.string() })) })),
    }),
  ),
});
const walkJson = z.object({
  result: z.union([
    z.object({ mapped: z.literal(true), physical: z.string() }),
    z.object({ mapped: z.literal(false), why: z.string() }),
  ]),
});

async function carrel(...args: readonly string[]): Promise<unknown> {
  const main = join(root, 'src/cli/main.ts');
  const { stdout, stderr } = await launch([process.execPath, main, 'vmm', ...args, '--json'], {
    timeoutMs: 60_000,
  });
  const text = stdout.toString('utf8');
  assert.notEqual(text, '', stderr.toString('utf8'));
  return JSON.parse(text);
}

const bigints = (record: Readonly<Record<string, string>>): Record<string, bigint> =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, BigInt(value)]));

export const commandLine: Hypervisor = {
  async run(directory, { guest, mode = 'long', vcpus = 1, share, limitMs = 5000, ports = 'carrel' }) {
    const { vcpus: results, memory } = runJson.parse(
      await carrel(
        'run',
        await fileOf(directory, guest),
        `--mode=${mode}`,
        `--vcpus=${vcpus}`,
        `--limit=${limitMs}ms`,
        `--ports=${ports}`,
        '--dump=0x400:2',
        ...(share === undefined ? [] : [`--share=${share}`]),
      ),
    );
    return {
      vcpus: results.map(({ output, end, exits, registers }) => ({
        output,
        end: end.sentence,
        kind: end.kind,
        exits: exits.total,
        byReason: exits.byReason,
        rax: BigInt(registers['rax'] ?? -1),
      })),
      at400: Buffer.from(memory[0]?.bytes ?? '', 'hex').readUInt16LE(),
    };
  },
  async begin() {
    const { memory, vcpus } = mapJson.parse(await carrel('map'));
    const [first] = vcpus;
    assert.ok(first);
    return {
      registers: bigints(first.registers),
      memoryBytes: memory.bytes,
      entries: first.tables.map(({ entries }) => BigInt(entries[0]?.entry ?? 0)),
    };
  },
  async walk(address) {
    const { result } = walkJson.parse(await carrel('walk', `0x${address.toString(16)}`));
    return result.mapped ? BigInt(result.physical) : result.why;
  },
};
