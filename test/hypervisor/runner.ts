/**
 * The hypervisor's doors (the library, the command line, a machine of the cloud) as one interface: the same cases go through
 * all of them.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { launch } from '#host/launch.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { describeEnd } from '#vmm/end.ts';
import { loadGuest } from '#vmm/image/compile.ts';
import { mapOf } from '#vmm/inspect/map.ts';
import { allRegisters } from '#vmm/inspect/registers.ts';
import { AddressSpace } from '#vmm/addresses.ts';
import { flatImage } from '#vmm/image/image.ts';
import { createMachine } from '#vmm/machine.ts';
import type { ModeName } from '#vmm/modes/mode.ts';
import { modes } from '#vmm/modes/table.ts';

/** A folder that guests may open files in. */
export interface SharedFolder {
  /** Where it is, for the door that made it. */
  readonly place: string;
  read(name: string): Promise<string>;
}

export interface GuestRun {
  /** A file of the kit, or `{ c: 'int main...' }`, or `{ asm: '...' }`. */
  readonly guest: string | { readonly c: string } | { readonly asm: string };
  readonly mode?: ModeName;
  readonly vcpus?: number;
  readonly share?: SharedFolder;
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
  /** From the first instruction to the end, by the clock of the process that ran it. */
  readonly ms: number;
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

export interface Hypervisor extends AsyncDisposable {
  run(run: GuestRun): Promise<Outcome>;
  share(): Promise<SharedFolder>;
  begin(): Promise<Beginning>;
  /** Guest-physical address, or why there is none. */
  walk(address: bigint): Promise<bigint | string>;
}

export interface Door {
  readonly name: string;
  /** Why it cannot be tried here. */
  readonly skip: string | false;
  open(): Promise<Hypervisor>;
}

const root = fileURLToPath(new URL('../..', import.meta.url));

/** A guest as a source: its name and text. */
export async function sourceOf(guest: GuestRun['guest']): Promise<{ name: string; text: string }> {
  if (typeof guest === 'string') {
    const text = await readFile(join(root, 'guests', guest), 'utf8');
    return { name: guest.split('/').at(-1) ?? guest, text };
  }
  return 'c' in guest
    ? { name: 'guest.c', text: `#include "carrel.h"\n${guest.c}\n` }
    : { name: 'guest.s', text: guest.asm };
}

/** A directory of the host for sources and shares. */
async function openDirectory(): Promise<{
  fileOf(guest: GuestRun['guest']): Promise<string>;
  share(): Promise<SharedFolder>;
  [Symbol.asyncDispose](): Promise<void>;
}> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-hypervisor-'));
  return {
    async fileOf(guest) {
      if (typeof guest === 'string') return join(root, 'guests', guest);
      const { name, text } = await sourceOf(guest);
      await writeFile(join(directory, name), text);
      return join(directory, name);
    },
    async share() {
      const place = await mkdtemp(join(directory, 'share-'));
      return { place, read: (name) => readFile(join(place, name), 'utf8') };
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

async function openLibrary(): Promise<Hypervisor> {
  const directory = await openDirectory();
  return {
    async run({ guest, mode = 'long', vcpus = 1, share, limitMs, ports }) {
      const image = await loadGuest(await directory.fileOf(guest), modes[mode]);
      using machine = createMachine({ mode, image, vcpus });
      const results = await machine.run({
        ...(share !== undefined && { share: share.place }),
        ...(limitMs !== undefined && { limitMs }),
        ...(ports !== undefined && { ports }),
      });
      return {
        vcpus: results.map(({ output, end, exits, registers, ms }) => ({
          output,
          end: describeEnd(end),
          kind: end.kind,
          exits: exits.total,
          byReason: exits.byReason,
          rax: registers.rax,
          ms,
        })),
        at400: machine.memory.view.getUint16(0x400, true),
      };
    },
    share: () => directory.share(),
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
    [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose](),
  };
}

/** What `--json` prints, as far as the cases look at it. */
const runJson = z.object({
  vcpus: z.array(
    z.object({
      output: z.string(),
      end: z.object({ kind: z.string(), sentence: z.string() }),
      exits: z.object({ total: z.int(), byReason: z.record(z.string(), z.int()) }),
      registers: z.record(z.string(), z.string()),
      ms: z.number(),
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

async function openCommandLine(): Promise<Hypervisor> {
  const directory = await openDirectory();
  return {
    async run({ guest, mode = 'long', vcpus = 1, share, limitMs = 5000, ports = 'carrel' }) {
      const { vcpus: results, memory } = runJson.parse(
        await carrel(
          'run',
          await directory.fileOf(guest),
          `--mode=${mode}`,
          `--vcpus=${vcpus}`,
          `--limit=${limitMs}ms`,
          `--ports=${ports}`,
          '--dump=0x400:2',
          ...(share === undefined ? [] : [`--share=${share.place}`]),
        ),
      );
      return {
        vcpus: results.map(outcomeOf),
        at400: Buffer.from(memory[0]?.bytes ?? '', 'hex').readUInt16LE(),
      };
    },
    share: () => directory.share(),
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
    [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose](),
  };
}

/** A vCPU as it is told of in JSON, by the command line and by the API. */
export function outcomeOf({
  output,
  end,
  exits,
  registers,
  ms,
}: {
  readonly output: string;
  readonly end: { readonly kind: string; readonly sentence: string };
  readonly exits: { readonly total: number; readonly byReason: Readonly<Record<string, number>> };
  readonly registers: Readonly<Record<string, string>>;
  readonly ms: number;
}): VcpuOutcome {
  return {
    output,
    end: end.sentence,
    kind: end.kind,
    exits: exits.total,
    byReason: exits.byReason,
    rax: BigInt(registers['rax'] ?? -1),
    ms,
  };
}

export const library: Door = { name: 'library', skip: withoutKvm, open: openLibrary };
export const commandLine: Door = { name: 'command line', skip: withoutKvm, open: openCommandLine };
