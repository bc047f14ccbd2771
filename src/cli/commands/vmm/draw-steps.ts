/** Single steps as a table. */
import { hex } from '#base/units.ts';
import type { Step } from '#vmm/debug/steps.ts';
import { renderTable } from '../../ui/table.ts';

export const drawSteps = (steps: readonly Step[]): string =>
  renderTable(steps, [
    { head: 'RIP', cell: ({ rip }) => hex(rip), align: 'right' },
    { head: 'BYTES', cell: ({ bytes }) => bytes },
    { head: 'INSTRUCTION', cell: ({ text }) => text },
    {
      head: 'CHANGED',
      cell: ({ changed }) =>
        Object.entries(changed)
          .map(([name, value]) => `${name} ${hex(value)}`)
          .join('  '),
    },
  ]);
