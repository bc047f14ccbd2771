/** Which templates are made unasked, and which have to go. Pure. */

import { isWanted } from '#store/templates.ts';

export interface Weighed {
  readonly bytes: number | null;
  /** Somebody asked for it, or labs are made of it: it stays, and counts. */
  readonly kept: boolean;
  readonly pool_target: number | null;
  readonly last_used_at: Date | null;
  readonly created_at: Date;
}

const usedAt = (row: Weighed): number => (row.last_used_at ?? row.created_at).getTime();

/** Those for which there is no room, beginning with the one that was used before all others. */
export function excessOf<T extends Weighed>(ready: readonly T[], maxBytes: number): T[] {
  const kept = ready.filter(isWanted);
  let room = maxBytes - kept.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
  return ready
    .filter((row) => !isWanted(row))
    .toSorted((left, right) => usedAt(right) - usedAt(left))
    .filter(({ bytes }) => {
      room -= bytes ?? 0;
      return room < 0;
    })
    .toReversed();
}

/**
 * Is it worth to park what this machine booted from? `asked`: when that was asked for last, by whomever. A machine
 * speaks for a template once: one that was made since and is not there any more was removed, or had to make room for
 * others, and would have to again.
 */
export function speaksFor(machine: { readonly created_at: Date }, asked: Date | undefined): boolean {
  return asked === undefined || asked < machine.created_at;
}
