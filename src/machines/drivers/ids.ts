/** Which ids of the host belong to a machine. */
import { idsPerContainer } from '#isolate/machine.ts';
import type { MachineSpec } from '../driver.ts';

/** Host ids of machines begin here: above those of people and services, and of /etc/subuid's usual ranges. */
const firstUid = 1_000_000;

/** The first of its 65,536 ids: the host's uid and gid of a container's root. */
export function uidBaseOf({ uidSlot }: Pick<MachineSpec, 'uidSlot'>): number {
  return firstUid + uidSlot * idsPerContainer;
}

/** Of machines in which an image is made: none of any machine's, and of no use outside a jail. */
export const builderUid = firstUid - 1;
