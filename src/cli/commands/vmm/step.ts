/** `carrel vmm step GUEST`. */
import { describeEnd } from '#vmm/end.ts';
import { prepareThread } from '#vmm/threads.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { renderTable } from '../../ui/table.ts';
import { countOf, interruptible, machineOf, shareOf } from './options.ts';
import { hex, plain } from './text.ts';

const mostSteps = 10_000;

export const vmmStep: Action = async ({ args, out }) => {
  prepareThread();
  using machine = await machineOf(args);
  using interrupt = interruptible();
  const [result] = await machine.run({
    steps: countOf(args, 'count', { usual: 20, most: mostSteps }),
    limitMs: args.duration('limit') ?? 5000,
    ports: args.option('ports') ?? 'carrel',
    signal: interrupt.signal,
    ...(await shareOf(args)),
  });
  const steps = result?.steps ?? [];
  const end = result ? describeEnd(result.end) : '';
  out.result(plain({ mode: machine.mode.name, end, output: result?.output ?? '', steps }), () =>
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
    ]),
  );
  out.note(end);
  return result?.end.kind === 'halted' || result?.end.kind === 'steps done' ? undefined : exitCodes.failed;
};
