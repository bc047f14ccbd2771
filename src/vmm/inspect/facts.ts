/**
 * Facts on a machine by name, each computed from the live machine when it is asked for: what the questions on an
 * example of a hypervisor ask. A name may take an argument behind a colon: `walk:0x200000`, `exits:HLT`.
 *
 * They are about the first vCPU. Those with `when: 'before'` describe the machine before its first instruction.
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import { type ControlName, controlNames, type RegisterName, registerNames } from '#kvm/registers.ts';
import type { ExitCounts } from '../counters.ts';
import { AddressSpace } from '../addresses.ts';
import { windowBytes } from '../layout.ts';
import type { Machine, MachineVcpu, VcpuResult } from '../machine.ts';
import { type Mapping, mappingAt } from './mapping.ts';
import { mapOf, type Region, type VcpuMap } from './map.ts';
import { formatOf, tableNames } from '../paging/formats.ts';
import { allRegisters } from './registers.ts';

/** A number, or a word in lower case. */
export type FactValue = bigint | string;

/** Before the run; `result` afterwards only. */
interface Scene {
  readonly machine: Machine;
  readonly first: MachineVcpu;
  readonly map: VcpuMap;
  readonly space: AddressSpace;
  readonly result: VcpuResult | undefined;
}

interface Fact {
  readonly name: string;
  /** What the argument is. Undefined: it takes none. */
  readonly argument?: 'address' | 'number' | 'register' | 'reason' | 'port' | 'table';
  readonly when: 'before' | 'after';
  readonly doc: string;
  readonly value: (scene: Scene, argument: string) => FactValue | undefined;
}

const number = (value: number | undefined): bigint | undefined =>
  value === undefined ? undefined : BigInt(value);

/** From the lowest to the highest address of regions of a kind. */
function extent(regions: readonly Region[], kind: Region['kind']): { from: bigint; to: bigint } | undefined {
  const of = regions.filter((region) => region.kind === kind);
  if (of.length === 0) return undefined;
  return {
    from: BigInt(Math.min(...of.map(({ from }) => from))),
    to: BigInt(Math.max(...of.map(({ to }) => to))),
  };
}

const sharing = (mapping: Mapping | undefined): string | undefined =>
  mapping && (mapping.shared ? 'shared' : 'private');

/** `anonymous`, or what is mapped: `kvm-vcpu`. Memory may have a name in brackets: [heap], [anon:v8]. */
function backing(mapping: Mapping | undefined): string | undefined {
  if (!mapping) return undefined;
  if (mapping.path.startsWith('[')) return 'anonymous';
  return /^anon_inode:\[?([a-z-]+)/.exec(mapping.path)?.[1] ?? (mapping.path === '' ? 'anonymous' : 'file');
}

const memoryMapping = ({ map }: Scene): Mapping | undefined => mappingAt(map.hostVirtual);
const runMapping = ({ map }: Scene): Mapping | undefined => mappingAt(map.run.hostVirtual);

function wordAt({ machine, first }: Scene, at: bigint): bigint | undefined {
  const bytes = machine.mode.bits / 8;
  const slice = machine.memory.slice(BigInt(first.layout.base) + at, bytes);
  return slice?.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

/** Words as wide as a register, each at a multiple of its size. */
function find(scene: Scene, wanted: bigint): FactValue {
  const { machine, first, map } = scene;
  const step = machine.mode.bits / 8;
  for (const { kind, from, to } of map.regions) {
    if (kind !== 'empty') continue;
    for (let at = Math.ceil((from - first.layout.base) / step) * step; at + step <= to; at += step)
      if (wordAt(scene, BigInt(at)) === wanted) return BigInt(at);
  }
  return 'nowhere';
}

function ofPort(exits: ExitCounts | undefined, port: bigint): bigint | undefined {
  if (!exits) return undefined;
  const counts = exits.ports.filter((each) => BigInt(each.port) === port).map(({ count }) => count);
  return BigInt(counts.reduce((sum, count) => sum + count, 0));
}

/** The port that the guest used most. */
const busiest = (exits: ExitCounts | undefined): ExitCounts['ports'][number] | undefined =>
  exits?.ports.toSorted((a, b) => b.count - a.count)[0];

const registerNamed = (name: string): RegisterName | ControlName | undefined =>
  [...registerNames, ...controlNames].find((each) => each === name);

function register({ first }: Scene, name: string): bigint | undefined {
  const known = registerNamed(name);
  return known && allRegisters(first.vcpu)[known];
}

export const facts: readonly Fact[] = [
  {
    name: 'mode',
    when: 'before',
    doc: 'real, protected, paged or long',
    value: ({ machine }) => machine.mode.name,
  },
  {
    name: 'vcpus',
    when: 'before',
    doc: 'how many vCPUs',
    value: ({ machine }) => BigInt(machine.vcpus.length),
  },
  {
    name: 'memory.bytes',
    when: 'before',
    doc: 'guest-physical memory of the machine, all vCPUs together',
    value: ({ machine }) => BigInt(machine.memory.length),
  },
  {
    name: 'memory.window',
    when: 'before',
    doc: 'guest-physical memory of one vCPU',
    value: () => BigInt(windowBytes),
  },
  {
    name: 'memory.offset',
    argument: 'address',
    when: 'before',
    doc: 'host-virtual address of a guest-physical one, counted from that of guest-physical 0',
    value: ({ machine: { memory } }, at) => {
      const piece = memory.slice(BigInt(at), 1);
      return piece && BigInt(piece.byteOffset - memory.bytes.byteOffset);
    },
  },
  {
    name: 'memory.rights',
    when: 'before',
    doc: 'what the host may do with its mapping of that memory: of rwx, those that hold',
    value: (scene) => memoryMapping(scene)?.rights,
  },
  {
    name: 'memory.sharing',
    when: 'before',
    doc: 'whether that mapping is private or shared',
    value: (scene) => sharing(memoryMapping(scene)),
  },
  {
    name: 'memory.backing',
    when: 'before',
    doc: 'what is mapped: anonymous, or a file',
    value: (scene) => backing(memoryMapping(scene)),
  },
  {
    name: 'run.bytes',
    when: 'before',
    doc: 'size of kvm_run, which the vCPU shares with the host',
    value: ({ machine }) => BigInt(machine.runBytes),
  },
  {
    name: 'run.rights',
    when: 'before',
    doc: 'rights of its mapping',
    value: (scene) => runMapping(scene)?.rights,
  },
  {
    name: 'run.sharing',
    when: 'before',
    doc: 'whether its mapping is private or shared',
    value: (scene) => sharing(runMapping(scene)),
  },
  {
    name: 'run.backing',
    when: 'before',
    doc: 'what is mapped there: kvm-vcpu is the vCPU itself',
    value: (scene) => backing(runMapping(scene)),
  },
  {
    name: 'run.in-guest',
    when: 'before',
    doc: 'whether kvm_run lies in guest memory: yes or no',
    value: ({ machine: { memory }, map: { run } }) => {
      const inside =
        run.hostVirtual + BigInt(run.bytes) > memory.hostAddress &&
        run.hostVirtual < memory.hostAddress + BigInt(memory.length);
      return inside ? 'yes' : 'no';
    },
  },
  {
    name: 'code.from',
    when: 'before',
    doc: 'first guest-physical address of the guest’s code',
    value: ({ map }) => extent(map.regions, 'code')?.from,
  },
  {
    name: 'code.to',
    when: 'before',
    doc: 'the first one behind it',
    value: ({ map }) => extent(map.regions, 'code')?.to,
  },
  {
    name: 'tables.from',
    when: 'before',
    doc: 'first guest-physical address of the page tables',
    value: ({ map }) => extent(map.regions, 'table')?.from,
  },
  {
    name: 'tables.to',
    when: 'before',
    doc: 'the first one behind them',
    value: ({ map }) => extent(map.regions, 'table')?.to,
  },
  {
    name: 'tables.count',
    when: 'before',
    doc: 'pages that page tables occupy',
    value: ({ map }) => BigInt(map.tables.length),
  },
  {
    name: 'table.at',
    argument: 'table',
    when: 'before',
    doc: 'guest-physical address of a table: PML4, PDPT, PD, PT',
    value: ({ map }, name) => map.tables.find(({ table }) => table === name)?.at,
  },
  {
    name: 'table.entry',
    argument: 'address',
    when: 'before',
    doc: 'the page table entry at a guest-physical address',
    value: ({ space }, at) => space.readEntry(BigInt(at), formatOf(space.paging).entryBytes),
  },
  {
    name: 'walk.levels',
    argument: 'address',
    when: 'before',
    doc: 'tables that are read to translate a guest-virtual address',
    value: ({ space }, at) => BigInt(space.walk(BigInt(at)).steps.length),
  },
  {
    name: 'walk.page',
    argument: 'address',
    when: 'before',
    doc: 'size of the page that a guest-virtual address lies in, or: none',
    value: ({ space }, at) => {
      const { result } = space.walk(BigInt(at));
      return (result.mapped ? number(result.pageBytes) : undefined) ?? 'none';
    },
  },
  {
    name: 'walk',
    argument: 'address',
    when: 'before',
    doc: 'guest-physical address of a guest-virtual one, or: not mapped',
    value: ({ space }, at) => {
      const { result } = space.walk(BigInt(at));
      return result.mapped ? result.physical : 'not mapped';
    },
  },
  {
    name: 'start',
    argument: 'register',
    when: 'before',
    doc: 'a register before the first instruction: rip, rsp, cr3, ...',
    value: register,
  },
  { name: 'end', argument: 'register', when: 'after', doc: 'a register after the run', value: register },
  {
    name: 'word',
    argument: 'address',
    when: 'after',
    doc: 'memory at a guest-physical address after the run, as wide as the mode’s registers',
    value: (scene, at) => wordAt(scene, BigInt(at)),
  },
  {
    name: 'find',
    argument: 'number',
    when: 'after',
    doc: 'the first guest-physical address after the run that holds this word and was empty before (no code, table or stack), or: nowhere',
    value: (scene, wanted) => find(scene, BigInt(wanted)),
  },
  {
    name: 'exits.total',
    when: 'after',
    doc: 'exits in all',
    value: ({ result }) => number(result?.exits.total),
  },
  {
    name: 'exits',
    argument: 'reason',
    when: 'after',
    doc: 'exits by their reason: IO, HLT, ...',
    value: ({ result }, reason) => number(result?.exits.byReason[reason] ?? 0),
  },
  {
    name: 'exits.port',
    argument: 'port',
    when: 'after',
    doc: 'exits by port, in and out',
    value: ({ result }, port) => ofPort(result?.exits, BigInt(port)),
  },
  {
    name: 'port',
    when: 'after',
    doc: 'the port that the guest used most, or: none',
    value: ({ result }) => number(busiest(result?.exits)?.port) ?? 'none',
  },
  {
    name: 'port.direction',
    when: 'after',
    doc: 'in or out: which way, as the guest sees it, or: none',
    value: ({ result }) => busiest(result?.exits)?.direction ?? 'none',
  },
  {
    name: 'port.data',
    when: 'after',
    doc: 'offset in kvm_run of the data of the last exit for a port',
    // an exit by HLT leaves the members for ports as they were
    value: ({ first }) => BigInt(first.vcpu.page.ioData),
  },
];

/** Those that need no argument. */
export const plainFacts: readonly string[] = facts.flatMap(({ name, argument }) =>
  argument === undefined ? [name] : [],
);

const address = /^(?:0x[0-9a-f]{1,16}|\d{1,19})$/i;

/** Which arguments a fact of a kind takes. */
const arguable: Readonly<Record<NonNullable<Fact['argument']>, (text: string) => boolean>> = {
  address: (text) => address.test(text),
  port: (text) => address.test(text),
  number: (text) => address.test(text),
  register: (text) => registerNamed(text) !== undefined,
  reason: (text) => Object.hasOwn(exitReasons, text),
  table: (text) => tableNames.some((each) => each === text),
};

/** The fact that a name means, and its argument; undefined if there is none. */
export function findFact(name: string): { readonly fact: Fact; readonly argument: string } | undefined {
  const at = name.indexOf(':');
  const [key, argument] = at < 0 ? [name, ''] : [name.slice(0, at), name.slice(at + 1)];
  const fact = facts.find((each) => each.name === key && (each.argument !== undefined) === at >= 0);
  if (!fact || (fact.argument !== undefined && !arguable[fact.argument](argument))) return undefined;
  return { fact, argument };
}

/**
 * Takes down the facts of that time. A fact that a machine does not have (the tables of a mode without) is left out.
 */
export function takeFacts(
  machine: Machine,
  names: readonly string[],
  result?: VcpuResult,
): Map<string, FactValue> {
  const [first] = machine.vcpus;
  const taken = new Map<string, FactValue>();
  if (!first) return taken;
  const space = new AddressSpace(first.layout, first.vcpu.special());
  const scene: Scene = { machine, first, map: mapOf(machine, first, 0), space, result };
  for (const name of names) {
    const found = findFact(name);
    if (found?.fact.when !== (result ? 'after' : 'before')) continue;
    const value = found.fact.value(scene, found.argument);
    if (value !== undefined) taken.set(name, value);
  }
  return taken;
}
