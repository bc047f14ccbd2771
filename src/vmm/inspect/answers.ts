/**
 * The questions that a course asks about its first hypervisor (how much memory, where, which tables, which exits, who
 * writes the 42), each answered by looking at a machine: before its first instruction, and after its run.
 */
import { hostPhysical } from '../hypercalls/translation.ts';
import {
  createMachine,
  type Machine,
  type MachineOptions,
  type RunOptions,
  type VcpuResult,
} from '../machine.ts';
import type { Walk } from '../paging/walk.ts';
import { AddressSpace } from '../addresses.ts';
import type { Breakpoint } from '../debug/breakpoint.ts';
import { codeAt, type CodeLine } from './code.ts';
import type { DirtyPages } from './dirty.ts';
import { type Mapping, mappingAt } from './mapping.ts';
import { portDataAt } from './port-data.ts';
import { type VcpuView, viewOf } from './vcpu.ts';
import { type WrittenWord, writtenWords } from './written.ts';

/** A place in our own address space, as the kernel sees it. */
export interface HostPlace {
  readonly bytes: number;
  readonly hostVirtual: bigint;
  readonly mapping: Mapping | undefined;
  /** Of its first page; 0 where the kernel does not tell, or no page is there yet. */
  readonly hostPhysical: bigint;
}

export interface VcpuAnswers {
  /** Before the first instruction. */
  readonly before: VcpuView;
  readonly run: HostPlace;
  /** Of the first and last byte of the window, of one behind it, and of RIP. */
  readonly walks: readonly Walk[];
  readonly result: VcpuResult;
  /** Where kvm_run has the data of a port exit; undefined if there was none, or it is no longer known. */
  readonly data: { readonly offset: number; readonly hostVirtual: bigint } | undefined;
  readonly written: { readonly words: readonly WrittenWord[]; readonly isPart: boolean };
  /** Who wrote the first word that is neither stack nor code, found in a second run by single steps. */
  readonly writer: { readonly word: WrittenWord; readonly instruction: CodeLine | undefined } | undefined;
}

export interface Answers {
  readonly mode: string;
  readonly title: string;
  readonly memory: HostPlace;
  readonly vcpus: readonly VcpuAnswers[];
  readonly dirty: DirtyPages | undefined;
}

function place(hostVirtual: bigint, bytes: number): HostPlace {
  return { bytes, hostVirtual, mapping: mappingAt(hostVirtual), hostPhysical: hostPhysical(hostVirtual) };
}

function walksOf(machine: Machine, index: number, rip: bigint): Walk[] {
  const at = machine.vcpus[index];
  if (!at) return [];
  const special = at.vcpu.special();
  const space = new AddressSpace(at.layout, special);
  const last = BigInt(machine.memory.length / machine.vcpus.length) - 1n;
  const addresses = new Set([special.segment('cs').base + rip, 0n, last, last + 1n]);
  return [...addresses].map((linear) => space.walk(linear));
}

/** Runs the guest a second time, to see which instruction it is that writes. */
async function findWriter(
  what: MachineOptions,
  options: RunOptions,
  { word, index }: { word: WrittenWord; index: number },
): Promise<CodeLine | undefined> {
  const bytes = what.mode === 'real' ? 2 : what.mode === 'long' ? 8 : 4;
  const watch: Breakpoint = { kind: 'write', address: word.linear, bytes, label: 'the word' };
  using machine = createMachine(what);
  const results = await machine.run({ ...options, trace: false, breakpoints: [watch], closely: true });
  const end = results[index]?.end;
  const by = end?.kind === 'breakpoint' ? end.hits[0]?.by : undefined;
  const at = machine.vcpus[index];
  if (by === undefined || !at) return undefined;
  return codeAt(at, { mode: machine.mode, symbols: machine.image.symbols, from: by, count: 1 })[0];
}

/**
 * Makes a machine, looks, runs it, and looks again. With `share` the guest is not run twice: its files would be
 * written twice.
 */
export async function answer(what: MachineOptions, options: RunOptions = {}): Promise<Answers> {
  using machine = createMachine({ watchDirty: 'as this host can', ...what });
  const { memory } = machine;
  const begun = machine.vcpus.flatMap(({ vcpu }, index) => {
    const view = viewOf(machine, index);
    if (!view) return [];
    return [
      {
        before: view,
        run: place(vcpu.page.address, machine.runBytes),
        walks: walksOf(machine, index, view.registers.rip),
      },
    ];
  });
  const memoryPlace = place(memory.hostAddress, memory.length);
  const copy = Uint8Array.from(memory.bytes);
  const results = await machine.run({ ...options, trace: true });
  const vcpus: VcpuAnswers[] = [];
  for (const [index, each] of begun.entries()) {
    const result = results[index];
    if (!result) continue;
    const written = writtenWords(machine, copy, each.before);
    const word = written.words.find(({ where }) => where === 'memory');
    const page = machine.vcpus[index]?.vcpu.page;
    const offset = page && portDataAt(page, result.exits);
    vcpus.push({
      ...each,
      result,
      data:
        offset === undefined || !page ? undefined : { offset, hostVirtual: page.address + BigInt(offset) },
      written,
      writer: word && {
        word,
        instruction:
          options.share === undefined ? await findWriter(what, options, { word, index }) : undefined,
      },
    });
  }
  return {
    mode: machine.mode.name,
    title: machine.mode.title,
    memory: memoryPlace,
    vcpus,
    dirty: machine.dirty?.look(),
  };
}
