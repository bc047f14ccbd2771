/** Memory as a drawing: high addresses at the top, guest-physical on the left, host-virtual on the right. */
import type { Region, VcpuMap } from '#vmm/inspect/map.ts';
import { hex } from './text.ts';

const width = 44;

const left = (address: number): string => hex(address).padStart(10);

export function drawMap({ base, bytes, hostVirtual, regions }: VcpuMap): string {
  const right = (address: number): string => hex(hostVirtual + BigInt(address - base));
  const rule = (address: number, [open, close]: readonly [string, string]): string =>
    `${left(address)} ${open}${'─'.repeat(width)}${close} ${right(address)}`;
  const box = ({ what }: Region): string => `${' '.repeat(10)} │ ${what.padEnd(width - 2)} │`;
  const lines = [`guest-physical${' '.repeat(width)}host-virtual`, rule(base + bytes, ['┌', '┐'])];
  for (const region of regions.toReversed()) {
    lines.push(box(region));
    lines.push(rule(region.from, region.from === base ? ['└', '┘'] : ['├', '┤']));
  }
  return lines.join('\n');
}
