/** What is known of a fault: as data, for people and programs. */
import type { Walk } from '../paging/walk.ts';

export interface Fault {
  /** Name of the exit: SHUTDOWN, INTERNAL_ERROR, MMIO, ... */
  readonly exit: string;
  /** Why it happened, as likely as can be told, in a sentence. */
  readonly cause: string;
  /** Address of the instruction: RIP, but for a write to where no memory is, which RIP is behind by then. */
  readonly rip: bigint;
  /** The instruction there, where it could be fetched. */
  readonly instruction?: { readonly bytes: string; readonly text: string };
  /** The exception that found no handler, where KVM says it or the instruction leaves no doubt. */
  readonly exception?: { readonly vector: number; readonly name: string };
  /** The page walk of the address that could not be reached. */
  readonly walk?: Walk;
}
