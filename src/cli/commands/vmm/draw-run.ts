/** How a vCPU's run ended, what it counted and what was traced. */
import { formatDuration, hex } from '#base/units.ts';
import { describeEnd } from '#vmm/end.ts';
import type { Fault } from '#vmm/fault/fault.ts';
import type { VcpuResult } from '#vmm/machine.ts';
import { drawWalk } from './draw-walk.ts';

/** `vcpu 0: halted after 15 exits (14 IO, 1 HLT) in 2.9 ms, RAX 0x2a`. */
export function drawEnd({ vcpu, end, exits, registers, ms }: VcpuResult): string {
  const reasons = Object.entries(exits.byReason).map(([name, count]) => `${count} ${name}`);
  const counts = `${exits.total} ${exits.total === 1 ? 'exit' : 'exits'}${reasons.length > 0 ? ` (${reasons.join(', ')})` : ''}`;
  return `vcpu ${vcpu}: ${describeEnd(end)}; ${counts} in ${formatDuration(ms)}, RAX ${hex(registers.rax)}, RIP ${hex(registers.rip)}`;
}

/** All registers, four in a line. */
export function drawRegisters(vcpu: number, registers: Readonly<Record<string, bigint>>): string {
  const cells = Object.entries(registers).map(
    ([name, value]) => `${name.toUpperCase().padEnd(6)} ${value.toString(16).padStart(16, '0')}`,
  );
  const lines = [`vcpu ${vcpu}`];
  for (let at = 0; at < cells.length; at += 4) lines.push(cells.slice(at, at + 4).join('  '));
  return lines.join('\n');
}

/** The evidence behind a fault, indented. */
export function drawFault({ rip, instruction, exception, walk }: Fault, cr3: bigint): string {
  const lines = [
    ...(instruction ? [`  at ${hex(rip)}: ${instruction.text}   (${instruction.bytes})`] : []),
    ...(exception ? [`  exception ${exception.vector}: ${exception.name}`] : []),
    ...(walk ? [drawWalk(walk, cr3).replaceAll(/^/gm, '  ')] : []),
  ];
  return lines.join('\n');
}
