/** What a run begins with, and what it leaves: registers, words in memory, exits. */
import { type ControlName, controlNames, type RegisterName, registerNames } from '#kvm/registers.ts';
import type { ExitCounts } from '../../counters.ts';
import { isOnStack } from '../map.ts';
import { portDataAt } from '../port-data.ts';
import { allRegisters } from '../registers.ts';
import { wordIn } from '../word.ts';
import { type Fact, type FactValue, number, type Scene } from './fact.ts';

function wordAt({ machine, first }: Scene, at: bigint): bigint | undefined {
  const { bits } = machine.mode;
  const from = BigInt(first.layout.base) + at;
  return machine.memory.slice(from, bits / 8) && wordIn(machine.memory.view, Number(from), bits);
}

/** Words as wide as a register, each at a multiple of its size. */
function find(scene: Scene, wanted: bigint): FactValue {
  const { machine, first, map } = scene;
  const { bits } = machine.mode;
  const { base } = first.layout;
  const step = bits / 8;
  for (const region of map.regions) {
    const { kind, from, to } = region;
    if (kind !== 'empty' && kind !== 'stack') continue;
    for (let at = from + ((step - ((from - base) % step)) % step); at + step <= to; at += step)
      if (!isOnStack(region, at) && wordIn(machine.memory.view, at, bits) === wanted)
        return BigInt(at - base);
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

export const registerNamed = (name: string): RegisterName | ControlName | undefined =>
  [...registerNames, ...controlNames].find((each) => each === name);

function register({ first }: Scene, name: string): bigint | undefined {
  const known = registerNamed(name);
  return known && allRegisters(first.vcpu)[known];
}

export const runFacts: readonly Fact[] = [
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
    doc: 'offset in kvm_run of the data of the last exit for a port, or: none',
    value: ({ first, result }) => number(portDataAt(first.vcpu.page, result?.exits)) ?? 'none',
  },
];
