/** Where kvm_run had the data of the last exit for a port. */
import { exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { ExitCounts } from '../counters.ts';

/** Exits that write nothing over the members of an exit for a port: all kinds of exit share one union. */
const leavesIo: ReadonlySet<number> = new Set([
  exitReasons.IO.number,
  exitReasons.HLT.number,
  exitReasons.SHUTDOWN.number,
  exitReasons.INTR.number,
]);

/** An offset in kvm_run; undefined if there was no such exit, or a later one has written over what is known of it. */
export function portDataAt(page: RunPage, exits: ExitCounts | undefined): number | undefined {
  const there = (exits?.byReason['IO'] ?? 0) > 0 && leavesIo.has(page.exitReason);
  return there ? page.ioData : undefined;
}
