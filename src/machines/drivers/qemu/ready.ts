/** When a machine is ready: somebody in it has answered. */
import { until } from '#base/deadline.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { Kept } from '#isolate/kept.ts';
import type { Agents } from './agents.ts';
import { consoleEnd, consoleTail } from './console.ts';

/** How much of the console's end is looked at for a prompt. */
const promptBytes = 4096;
/** What getty(8) and busybox write before they wait. */
const loginPrompt = /\blogin: ?$/;

export interface ReadyParts {
  readonly kept: Kept;
  readonly directory: string;
  readonly agents: Agents;
  readonly hasAgent: boolean;
}

/**
 * With an agent: it answered a command. Without: a login prompt stands on the console. `machine_lost` with the
 * console's last words when the machine ends instead.
 */
export async function untilReady(parts: ReadyParts, { limitMs }: { limitMs: number }): Promise<void> {
  const { kept, directory, agents, hasAgent } = parts;
  const ended = kept.ended().then((): never => {
    throw new CarrelError('machine_lost', `the machine ended before it was ready: ${consoleTail(directory)}`);
  });
  ended.catch(() => undefined);
  const answered = hasAgent
    ? agents.use(directory, (agent) => agent.ping({ limitMs }), { limitMs })
    : until(
        limitMs,
        'a login prompt on the console',
        () => (loginPrompt.test(consoleEnd(directory, promptBytes)) ? true : undefined),
        { everyMs: 100 },
      );
  answered.catch(() => undefined);
  try {
    await Promise.race([answered, ended]);
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    const last = consoleTail(directory).split('\n').at(-1) ?? '';
    throw new CarrelError('deadline_exceeded', `${error.message}; the last line on its console is: ${last}`, {
      cause: error,
    });
  }
}
