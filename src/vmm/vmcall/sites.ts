/**
 * Where a guest has its vmcalls. KVM keeps the instruction for itself, so that a monitor never sees it; the model puts
 * a port instruction in its place. A guest marks its vmcalls by labels that begin with `vmcall_` (guests/vmcall.h does).
 */
import type { GuestImage } from '../image/image.ts';
import type { Layout } from '../layout.ts';

/** vmcall (Intel), vmmcall (AMD): SDM volume 3C, 31.3; APM volume 3. */
const instructions = [
  [0x0f, 0x01, 0xc1],
  [0x0f, 0x01, 0xd9],
] as const;

/** A port that no map has; the model asks for the place as well. */
export const modelPort = 0xf7;
/** `in $0xf7, %eax; nop`: as long as a vmcall. */
const replacement = [0xe5, modelPort, 0x90] as const;

/** Addresses of the guest's vmcalls: labels where there is one indeed. */
export function vmcallSites({ symbols, parts }: GuestImage): number[] {
  const byteAt = (address: number): number | undefined => {
    const part = parts.find(({ at, bytes }) => address >= at && address < at + bytes.length);
    return part?.bytes[address - part.at];
  };
  const isCall = (address: number): boolean =>
    instructions.some((bytes) => bytes.every((byte, index) => byteAt(address + index) === byte));
  const sites = symbols
    .filter(({ name, at }) => name.startsWith('vmcall_') && isCall(at))
    .map(({ at }) => at);
  return [...new Set(sites)];
}

/** Puts the port instruction there, in the memory of one vCPU. */
export function replaceVmcalls(sites: readonly number[], { memory, base }: Layout): void {
  for (const site of sites) memory.bytes.set(replacement, base + site);
}
