/** Where things lie in guest-physical memory: a window of 2 MiB for each vCPU, and in it code, tables and stack. */
import type { GuestMemory } from '#kvm/memory.ts';

/** What each vCPU has, and all it has. */
export const windowBytes = 0x20_0000;

/** Where the paging structures go if the guest's image ends before it. */
export const defaultTables = 0x2000;

export interface Layout {
  /** All guest memory of the machine. */
  readonly memory: GuestMemory;
  /** First guest-physical address of this vCPU's window. */
  readonly base: number;
  /** Offset in the window of the first paging structure. */
  readonly tables: number;
}
