/** `carrel vmm step GUEST`. */
import { describeEnd } from '#vmm/end.ts';
import { prepareThread } from '#vmm/threads.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { drawSteps } from './draw-steps.ts';
import { countOf, interruptible, limitOf, machineOf, shareOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

const mostSteps = 10_000;

export const vmmStep: Action = async ({ args, out }) => {
  prepareThread();
  using machine = await machineOf(args);
  using interrupt = interruptible();
  const [result] = await machine.run({
    steps: countOf(args, 'count', { usual: 20, most: mostSteps }),
    limitMs: limitOf(args),
    ports: args.option('ports') ?? 'carrel',
    signal: interrupt.signal,
    ...(await shareOf(args)),
  });
  const steps = result?.steps ?? [];
  const end = result ? describeEnd(result.end) : '';
  out.result(plain({ mode: machine.mode.name, end, output: result?.output ?? '', steps }), () =>
    drawSteps(steps),
  );
  out.note(end);
  return result?.end.kind === 'halted' || result?.end.kind === 'steps done' ? undefined : exitCodes.failed;
};
