/** `carrel vmm inspect GUEST`. */
import { describeEnd } from '#vmm/end.ts';
import { answer } from '#vmm/inspect/answers.ts';
import { prepareThread } from '#vmm/threads.ts';
import type { Action } from '../../spec.ts';
import { drawAnswers } from './draw-answers.ts';
import { interruptible, limitOf, machineOptionsOf, shareOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

export const vmmInspect: Action = async ({ args, out }) => {
  prepareThread();
  const what = await machineOptionsOf(args);
  using interrupt = interruptible();
  using progress = out.progress();
  progress.update('the guest runs, and once more step by step');
  const answers = await answer(what, {
    limitMs: limitOf(args),
    ports: args.option('ports') ?? 'carrel',
    signal: interrupt.signal,
    ...(await shareOf(args)),
  });
  progress.clear();
  const json = {
    ...answers,
    vcpus: answers.vcpus.map((vcpu) => ({
      ...vcpu,
      result: {
        ...vcpu.result,
        end: { ...vcpu.result.end, sentence: describeEnd(vcpu.result.end) },
        steps: undefined,
      },
    })),
  };
  out.result(plain(json), () => drawAnswers(answers));
  return undefined;
};
