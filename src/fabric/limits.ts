/**
 * How fast a machine may send and receive. To the machine: a token bucket on its link, in which frames wait their
 * turn. From the machine: the filter drops what is over the rate, where the frame enters, so that a flood costs
 * nobody else anything. (Ingress policing of tc(8) is not in every kernel; nft_limit is where nftables is.)
 */
import { syscallErrno } from '#host/syscalls.ts';
import { CarrelError } from '#base/errors.ts';
import { listKeys } from './netlink/elements.ts';
import type { Links } from './netlink/links.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import type { Port } from './ports.ts';
import { applyRules } from './rules.ts';

/** Slower than this and a machine could not even answer who it is. */
const slowest = 1000;
/** A frame that a machine hands over may have been put together of many: 64 KiB, and some of them at once. */
const sendBurst = 262_144;

export interface Limits {
  /** Sets both directions of a link that exists, in bytes per second; null: no limit. */
  set(port: Port, bytesPerSecond: number | null): Promise<void>;
  /** Forgets the limit of a link that is gone. */
  forget(link: string): Promise<void>;
  /** Text that forgets those of links that are not among `ports`. */
  forgetOthers(ports: readonly Port[]): Promise<string>;
  /** What this kernel cannot do, as sentences. Known after the first limit that was asked for. */
  readonly findings: ReadonlySet<string>;
}

type Family = Port['family'];
const families: readonly Family[] = ['bridge', 'ip'];

/** Adding first makes a deletion succeed whether or not it was there. */
function removal(family: Family, link: string): string {
  const object = `limit ${family} carrel rate-${link}`;
  return `add ${object} { rate over 1 bytes/second; }
add element ${family} carrel rates { "${link}" : "rate-${link}" }
delete element ${family} carrel rates { "${link}" }
delete ${object}
`;
}

function addition(family: Family, link: string, bytesPerSecond: number): string {
  return `add limit ${family} carrel rate-${link} { rate over ${bytesPerSecond} bytes/second burst ${sendBurst} bytes; }
add element ${family} carrel rates { "${link}" : "rate-${link}" }
`;
}

/** `rates`: do the static rules have them (see `applyStaticRules`)? */
export function openLimits({
  links,
  filter,
  rates,
}: {
  links: Links;
  filter: NetlinkSocket;
  rates: boolean;
}): Limits {
  const findings = new Set<string>();
  const limited = async (family: Family): Promise<string[]> => {
    if (!rates) return [];
    const keys = await listKeys(filter, { family, table: 'carrel', set: 'rates' });
    return keys.map((key) => Buffer.from(key.subarray(0, 16)).toString('latin1').replaceAll('\0', ''));
  };
  const shape = async (port: Port, bytesPerSecond: number | null): Promise<void> => {
    const index = (await links.find(port.link))?.index;
    if (index === undefined) return;
    try {
      await links.setRate(index, bytesPerSecond ?? undefined);
    } catch (error) {
      // ENOENT: no such qdisc
      if (syscallErrno(error) !== 'ENOENT') throw error;
      findings.add('This kernel has no token buckets (sch_tbf): what machines receive is not limited');
    }
  };
  const forget = async (link: string): Promise<void> => {
    for (const family of families)
      if ((await limited(family)).includes(link)) await applyRules(removal(family, link));
  };
  return {
    findings,
    forget,
    async set(port, bytesPerSecond) {
      const { link, family } = port;
      if (bytesPerSecond === null) {
        await shape(port, null);
        return await forget(link);
      }
      if (!Number.isSafeInteger(bytesPerSecond) || bytesPerSecond < slowest)
        throw new CarrelError('validation_failed', `${bytesPerSecond} bytes per second is no rate`, {
          hint: `a whole number, at least ${slowest}`,
        });
      await shape(port, bytesPerSecond);
      if (rates) await applyRules(removal(family, link) + addition(family, link, bytesPerSecond));
      else
        findings.add(
          'This kernel has no limits in its filter (nft_limit): what machines send is not limited',
        );
    },
    async forgetOthers(ports) {
      const text: string[] = [];
      for (const family of families)
        for (const link of await limited(family))
          if (!ports.some((port) => port.link === link && port.family === family))
            text.push(removal(family, link));
      return text.join('');
    },
  };
}
