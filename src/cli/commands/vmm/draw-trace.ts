/** Exits as a table: time since the first instruction, port or address, and data. */
import { hex } from '#base/units.ts';
import type { TracedExit, TracedExits } from '#vmm/trace.ts';
import { renderTable } from '../../ui/table.ts';

/** Microseconds with three digits: a nanosecond counts, and columns stay below each other. */
const time = ({ ns }: TracedExit): string => `${(ns / 1000).toFixed(3)} us`;

const place = ({ port, address }: TracedExit): string => {
  if (port !== undefined) return hex(port);
  return address === undefined ? '' : hex(address);
};

const way = ({ direction, address }: TracedExit): string => {
  if (address === undefined) return direction ?? '';
  return direction === 'in' ? 'read' : 'write';
};

/** A printable byte beside its number: what a guest prints can be read down the column. */
function data({ value, size, count }: TracedExit): string {
  if (value === undefined) return '';
  const isLetter = size === 1 && value > 0x20 && value < 0x7f;
  const letter = isLetter ? ` ${String.fromCharCode(Number(value))}` : '';
  return `${hex(value)}${letter}${count === undefined ? '' : ` and ${count - 1} more`}`;
}

export function drawTrace(vcpu: number, { dropped, exits }: TracedExits): string {
  const before = dropped > 0 ? `vcpu ${vcpu}: ${dropped} exits came before\n` : '';
  const table = renderTable(exits, [
    { head: 'VCPU', cell: () => vcpu },
    { head: 'EXIT', cell: ({ number }) => number, align: 'right' },
    { head: 'TIME', cell: time, align: 'right' },
    { head: 'REASON', cell: ({ reason }) => reason },
    { head: 'WHERE', cell: place },
    { head: 'WAY', cell: way },
    { head: 'BYTES', cell: ({ size }) => size ?? '', align: 'right' },
    { head: 'DATA', cell: data },
  ]);
  return `${before}${table}`;
}
