/** A page walk, one line for each step. */
import { formatSize, hex } from '#base/units.ts';
import type { Walk, WalkStep } from '#vmm/paging/walk.ts';

const bits: readonly (readonly [bit: bigint, name: string])[] = [
  [1n << 0n, 'present'],
  [1n << 1n, 'writable'],
  [1n << 2n, 'user'],
  [1n << 5n, 'accessed'],
  [1n << 6n, 'dirty'],
  [1n << 63n, 'no-execute'],
];

/** Above the last level, and not at the root: the entry maps a page itself. */
const large = 1n << 7n;

function flags({ table, entry }: WalkStep): string {
  const names = bits.filter(([bit]) => (entry & bit) !== 0n).map(([, name]) => name);
  if ((table === 'PD' || table === 'PDPT') && (entry & large) !== 0n) names.push('large page');
  return names.length === 0 ? 'not present' : names.join(' ');
}

function stepLine(step: WalkStep, widest: number): string {
  const { table, tableAt, index, entry } = step;
  return `  ${table.padEnd(4)} at ${hex(tableAt).padEnd(widest)}  [${String(index).padStart(3)}] = ${hex(entry).padEnd(widest + 2)}  ${flags(step)}`;
}

export function drawWalk({ linear, format, steps, result }: Walk, cr3: bigint): string {
  const how = format === 'none' ? 'without paging' : `${format} paging, CR3 ${hex(cr3)}`;
  const widest = Math.max(0, ...steps.map(({ tableAt }) => hex(tableAt).length));
  const lines = [`linear ${hex(linear)}: ${how}`, ...steps.map((step) => stepLine(step, widest))];
  if (!result.mapped) return [...lines, `  ${result.why}`].join('\n');
  const page = result.pageBytes === undefined ? '' : `, in a page of ${formatSize(result.pageBytes)}`;
  return [...lines, `  guest-physical ${hex(result.physical)}${page}`].join('\n');
}
