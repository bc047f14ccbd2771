/** What a mode of the processor is here: a name, a width, and how registers and tables are set before RIP moves. */
import type { SpecialRegisters } from '#kvm/registers.ts';
import type { Layout } from '../layout.ts';

export const modeNames = ['real', 'protected', 'paged', 'long'] as const;
export type ModeName = (typeof modeNames)[number];

export interface Mode {
  readonly name: ModeName;
  /** As the first line of a hello run has it. */
  readonly title: string;
  /** Width of code and registers. */
  readonly bits: 16 | 32 | 64;
  /** Bytes of paging structures that `setUp` writes at `layout.tables`. */
  readonly tableBytes: number;
  /** RSP at the start: the stack grows down from here. */
  readonly stack: number;
  /** Writes the tables into guest memory, and the registers that lead to them into `special`. */
  setUp(special: SpecialRegisters, layout: Layout): void;
}
