/** How a vCPU's run ended, what it counted and what was traced. */
import { formatDuration } from '#base/units.ts';
import { describeEnd } from '#vmm/end.ts';
import type { Fault } from '#vmm/fault/fault.ts';
import type { VcpuResult } from '#vmm/machine.ts';
import { renderTable } from '../../ui/table.ts';
import { drawWalk } from './draw-walk.ts';
import { hex } from './text.ts';

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

export function drawTrace({ vcpu, trace }: VcpuResult): string {
  const exits = trace?.exits ?? [];
  const before = trace && trace.dropped > 0 ? `vcpu ${vcpu}: ${trace.dropped} exits came before\n` : '';
  const table = renderTable(exits, [
    { head: 'VCPU', cell: () => vcpu },
    { head: 'EXIT', cell: ({ number }) => number, align: 'right' },
    { head: 'TIME', cell: ({ us }) => formatDuration(us / 1000), align: 'right' },
    { head: 'REASON', cell: ({ reason }) => reason },
    { head: 'PORT', cell: ({ port }) => (port === undefined ? '' : hex(port)) },
    { head: 'WAY', cell: ({ direction }) => direction ?? '' },
    { head: 'BYTES', cell: ({ size }) => size ?? '', align: 'right' },
    { head: 'DATA', cell: ({ value }) => (value === undefined ? '' : hex(value)) },
  ]);
  return `${before}${table}`;
}
