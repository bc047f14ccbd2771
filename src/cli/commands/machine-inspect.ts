/** `machine inspect`: how the last run of a guest went. */
import { formatDuration } from '#base/units.ts';
import type { Inspection } from '#contract/schemas/machines.ts';
import type { Action } from '../spec.ts';
import { printable } from '../ui/style.ts';
import { renderTable } from '../ui/table.ts';

type Vcpu = Inspection['vcpus'][number];

function drawVcpu({ end, exits, registers, ms }: Vcpu, index: number): string {
  const reasons = Object.entries(exits.byReason).map(([name, count]) => `${count} ${name}`);
  const ports = exits.ports.map(
    ({ port, direction, count }) => `  port 0x${port.toString(16)} ${direction}: ${count}`,
  );
  const list = reasons.length > 0 ? ` (${reasons.join(', ')})` : '';
  const values = Object.entries(registers).map(([name, value]) => `${name.toUpperCase()} ${value}`);
  return [
    `vcpu ${index}: ${printable(end.sentence)}; ${exits.total} exits${list} in ${formatDuration(ms)}`,
    ...ports,
    `  ${values.join(' ')}`,
  ].join('\n');
}

export const machineInspect: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const inspection = await client.inspectMachine({ params: { machine: args.word('machine') } });
  out.result(inspection, () =>
    [
      ...inspection.vcpus.map(drawVcpu),
      renderTable(Object.entries(inspection.facts), [
        { head: 'FACT', cell: ([name]) => name },
        { head: 'VALUE', cell: ([, value]) => value },
      ]),
    ].join('\n\n'),
  );
  return undefined;
};
