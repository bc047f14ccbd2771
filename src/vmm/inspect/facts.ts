/**
 * Facts on a machine by name, each computed from the live machine when it is asked for: what the questions on an
 * example of a hypervisor ask. A name may take an argument behind a colon: `walk:0x200000`, `exits:HLT`.
 *
 * They are about the first vCPU. Those with `when: 'before'` describe the machine before its first instruction.
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import { AddressSpace } from '../addresses.ts';
import type { Machine, VcpuResult } from '../machine.ts';
import { tableNames } from '../paging/formats.ts';
import type { Fact, FactValue, Scene } from './facts/fact.ts';
import { memoryFacts } from './facts/memory.ts';
import { registerNamed, runFacts } from './facts/run.ts';
import { tableFacts } from './facts/tables.ts';
import { mapOf } from './map.ts';

export const facts: readonly Fact[] = [...memoryFacts, ...tableFacts, ...runFacts];

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
