/** `carrel vmm hello`. */
import { formatDuration } from '#base/units.ts';
import { type Hello, hello, tryHello } from '#vmm/hello.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { modeOf } from './options.ts';

function render({ title, output, ok, refused, reason, exits, ms }: Hello): string {
  const tail = refused
    ? `  not on this host: ${reason ?? ''}`
    : ok
      ? `  ${exits} ${exits === 1 ? 'exit' : 'exits'}, ${formatDuration(ms)}`
      : `  ${reason ?? ''}`;
  return `Testing ${title}\n${output}${tail}`;
}

export const vmmHello: Action = async ({ args, out }) => {
  // a mode that was asked for must run; of all four, the host may lack one
  const results = args.option('mode') === undefined ? await inTurn() : [await hello(modeOf(args))];
  out.result(results, () => results.map(render).join('\n'));
  return results.every(({ ok, refused }) => ok || refused) ? undefined : exitCodes.failed;
};

async function inTurn(): Promise<Hello[]> {
  const results: Hello[] = [];
  for (const name of modeNames) results.push(await tryHello(name));
  return results;
}
