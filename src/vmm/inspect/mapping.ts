/** What the kernel says of a range of our own memory: proc_pid_maps(5). */
import { readFileSync } from 'node:fs';

export interface Mapping {
  readonly from: bigint;
  /** The first address behind it. */
  readonly to: bigint;
  /** Of `rwx`, those that hold. */
  readonly rights: string;
  /** Writes go to the thing itself (MAP_SHARED), not to a copy of ours. */
  readonly shared: boolean;
  /** What is mapped; empty: nothing but memory. */
  readonly path: string;
}

const line = /^([0-9a-f]+)-([0-9a-f]+) ([rwx-]{3})([ps]) [0-9a-f]+ \S+ \d+ *(.*)$/;

/** The mapping that an address lies in, by the text of /proc/PID/maps. Pure. */
export function mappingIn(maps: string, address: bigint): Mapping | undefined {
  for (const text of maps.split('\n')) {
    const [, from, to, rights = '', sharing, path = ''] = line.exec(text) ?? [];
    if (from === undefined || BigInt(`0x${from}`) > address || address >= BigInt(`0x${to}`)) continue;
    return {
      from: BigInt(`0x${from}`),
      to: BigInt(`0x${to}`),
      rights: rights.replaceAll('-', ''),
      shared: sharing === 's',
      path,
    };
  }
  return undefined;
}

/** The mapping of this process that an address lies in. */
export const mappingAt = (address: bigint): Mapping | undefined =>
  mappingIn(readFileSync('/proc/self/maps', 'utf8'), address);
