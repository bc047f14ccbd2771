/** Instructions as a listing. */
import { hex } from '#base/units.ts';
import { type CodeLine, codeAt } from '#vmm/inspect/code.ts';
import type { Machine } from '#vmm/machine.ts';

/** `=> 0x5 main: movl $0x2a,0x400`, the first one marked if it is the next to be executed. */
export function drawCode(lines: readonly CodeLine[], rip?: bigint): string {
  const heads = lines.map(({ at, name }) => (name === undefined ? hex(at) : `${hex(at)} ${name}`));
  const widest = Math.max(0, ...heads.map(({ length }) => length));
  const longest = Math.max(0, ...lines.map(({ bytes }) => bytes.length));
  return lines
    .map(
      ({ at, bytes, text }, index) =>
        `${at === rip ? '=>' : '  '} ${(heads[index] ?? '').padEnd(widest)}  ${bytes.padEnd(longest)}  ${text}`,
    )
    .join('\n');
}

/** Where a vCPU stands: the instruction to come, and the next ones. */
export function drawHere(machine: Machine, index: number, count = 3): string {
  const vcpu = machine.vcpus[index];
  if (!vcpu) return '';
  const lines = codeAt(vcpu, { mode: machine.mode, symbols: machine.image.symbols, count });
  return drawCode(lines, lines[0]?.at);
}
