/** Who had the core and when, as a drawing: a row for each machine, time from left to right. */
import { formatDuration } from '#base/units.ts';
import type { PolicyName } from '#vmm/schedule/policy.ts';
import type { Scheduled, ScheduledMachine } from '#vmm/schedule/schedule.ts';
import type { Slice } from '#vmm/schedule/timeline.ts';
import { describeEnd } from '#vmm/end.ts';
import { renderTable } from '../../ui/table.ts';

const columns = 64;

/** `A`, `B`: how machines are called here. */
export const letter = (machine: number): string => String.fromCharCode(65 + machine);

/** The part of a column that each machine had, 0 to 1. */
function partsOf(slices: readonly Slice[], machines: number, from: number, to: number): number[] {
  const parts = Array.from({ length: machines }, () => 0);
  for (const { machine, fromMs, toMs } of slices) {
    const common = Math.min(to, toMs) - Math.max(from, fromMs);
    if (common > 0) parts[machine] = (parts[machine] ?? 0) + common / (to - from);
  }
  return parts;
}

/** From nothing to all of it. */
const shades = ' ░▒▓█';
const shade = (part: number): string => shades[Math.min(4, Math.ceil(part * 4 - 0.02))] ?? ' ';

const rows = (cells: readonly (readonly string[])[], names: readonly string[]): string[] =>
  names.map((name, machine) => `${name} ${cells.map((cell) => cell[machine] ?? ' ').join('')}`.trimEnd());

/** One column is one slice: for machines that take turns in microseconds. */
function drawTurns(slices: readonly Slice[], names: readonly string[]): string {
  const shown = slices.slice(0, columns);
  const cells = shown.map(({ machine }) => names.map((_, index) => (index === machine ? '█' : ' ')));
  const ruler = Array.from({ length: Math.ceil(shown.length / 10) }, (_, ten) =>
    String(ten * 10 + 1).padEnd(10),
  ).join('');
  return [`  ${ruler.trimEnd()}   slices, one a column`, ...rows(cells, names)].join('\n');
}

/** One column is half a slice, so that each can be seen. What comes after the last column is more of the same. */
function drawTime(slices: readonly Slice[], names: readonly string[], sliceMs: number): string {
  const column = sliceMs / 2;
  const end = slices.at(-1)?.toMs ?? 0;
  const width = Math.min(columns, Math.ceil(end / column));
  const cells = Array.from({ length: width }, (_, index) =>
    partsOf(slices, names.length, index * column, (index + 1) * column).map(shade),
  );
  const ruler = Array.from({ length: Math.ceil(width / 16) }, (_, sixteen) =>
    formatDuration(sixteen * 16 * column).padEnd(16),
  ).join('');
  const rest = end > width * column ? `  of ${formatDuration(end)}` : '';
  return [`  ${ruler.trimEnd()}${rest}`, ...rows(cells, names)].join('\n');
}

export function drawTimeline(
  { timeline, machines }: Scheduled,
  { policy, sliceMs }: { policy: PolicyName; sliceMs: number },
): string {
  const names = machines.map((_, machine) => letter(machine));
  return policy === 'io' ? drawTurns(timeline.slices, names) : drawTime(timeline.slices, names, sliceMs);
}

const causes: Readonly<Record<Slice['cause'], string>> = {
  io: 'I/O exit',
  tick: 'tick',
  end: 'ended',
  stop: 'stopped',
};

/** The first slices, one in a line. */
export function drawSlices({ timeline }: Scheduled, count: number): string {
  return renderTable(timeline.slices.slice(0, count), [
    { head: 'FROM', cell: ({ fromMs }) => formatDuration(Number(fromMs.toFixed(2))), align: 'right' },
    { head: 'VM', cell: ({ machine }) => letter(machine) },
    { head: 'RAN', cell: ({ fromMs, toMs }) => `${(toMs - fromMs).toFixed(3)} ms`, align: 'right' },
    { head: 'CPU', cell: ({ cpuMs }) => `${cpuMs.toFixed(3)} ms`, align: 'right' },
    { head: 'EXITS', cell: ({ exits }) => exits, align: 'right' },
    { head: 'THEN', cell: ({ cause }) => causes[cause] },
  ]);
}

/** Shares, and how each ended. */
export function drawShares(
  machines: readonly ScheduledMachine[],
  {
    policy,
    guests,
    counters,
  }: { policy: PolicyName; guests: readonly string[]; counters: readonly number[] },
): string {
  const total = machines.reduce((sum, { weight }) => sum + weight, 0);
  return renderTable(machines, [
    { head: 'VM', cell: (row) => letter(machines.indexOf(row)) },
    { head: 'GUEST', cell: (row) => guests[machines.indexOf(row)] ?? '' },
    ...(policy === 'weights'
      ? [
          {
            head: 'WEIGHT',
            cell: ({ weight }: ScheduledMachine) => `${((100 * weight) / total).toFixed(1)} %`,
            align: 'right' as const,
          },
        ]
      : []),
    { head: 'SHARE', cell: ({ share }) => `${(100 * share).toFixed(1)} %`, align: 'right' },
    { head: 'CPU', cell: ({ cpuMs }) => formatDuration(cpuMs), align: 'right' },
    { head: 'SLICES', cell: ({ slices }) => slices, align: 'right' },
    { head: 'EXITS', cell: ({ exits }) => exits.total, align: 'right' },
    ...(counters.length > 0
      ? [
          {
            head: 'COUNTED',
            cell: (row: ScheduledMachine) => counters[machines.indexOf(row)] ?? 0,
            align: 'right' as const,
          },
        ]
      : []),
    { head: 'END', cell: ({ end }) => describeEnd(end) },
  ]);
}
