/** What a fact is: a name, what it may be asked of, and how it is found on a live machine. */
import type { AddressSpace } from '../../addresses.ts';
import type { Machine, MachineVcpu, VcpuResult } from '../../machine.ts';
import type { VcpuMap } from '../map.ts';

/** A number, or a word in lower case. */
export type FactValue = bigint | string;

/** Before the run; `result` afterwards only. */
export interface Scene {
  readonly machine: Machine;
  readonly first: MachineVcpu;
  readonly map: VcpuMap;
  readonly space: AddressSpace;
  readonly result: VcpuResult | undefined;
}

export interface Fact {
  readonly name: string;
  /** What the argument is. Undefined: it takes none. */
  readonly argument?: 'address' | 'number' | 'register' | 'reason' | 'port' | 'table';
  readonly when: 'before' | 'after';
  readonly doc: string;
  readonly value: (scene: Scene, argument: string) => FactValue | undefined;
}

export const number = (value: number | undefined): bigint | undefined =>
  value === undefined ? undefined : BigInt(value);
