/** `carrel completion`. */
import { CarrelError } from '#base/errors.ts';
import { completionScript, shells } from '../completion.ts';
import type { Action } from '../spec.ts';

export const completion: Action = async ({ args, out }) => {
  const wanted = args.word('shell');
  const shell = shells.find((name) => name === wanted);
  if (!shell)
    throw new CarrelError('invalid_request', `there is no completion for ${wanted}`, {
      hint: `known: ${shells.join(', ')}`,
    });
  const script = completionScript(shell);
  out.result({ shell, script }, () => script);
  return undefined;
};
