/** The verbs that change a machine's state: all of one shape. */
import { CarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';

type Call = (client: Client, machine: string, body: { graceMs?: number }) => Promise<{ job: Job }>;

const verbs: Readonly<Record<string, { call: Call; done: string }>> = {
  start: { call: (client, machine) => client.startMachine({ params: { machine } }), done: 'running' },
  stop: {
    call: (client, machine, body) => client.stopMachine({ params: { machine }, body }),
    done: 'stopped',
  },
  restart: {
    call: (client, machine, body) => client.restartMachine({ params: { machine }, body }),
    done: 'running',
  },
  pause: { call: (client, machine) => client.pauseMachine({ params: { machine } }), done: 'paused' },
  resume: { call: (client, machine) => client.resumeMachine({ params: { machine } }), done: 'running' },
  rm: { call: (client, machine) => client.deleteMachine({ params: { machine } }), done: 'deleted' },
};

/** All machines are asked first and waited for after: they stop side by side. */
export function machineVerb(name: string): Action {
  return async ({ args, out, connect }) => {
    const verb = verbs[name];
    if (!verb) throw new CarrelError('internal', `no verb ${name}`);
    const grace = args.duration('grace');
    const { client } = await connect();
    const asked: { machine: string; job: Job }[] = [];
    for (const machine of args.words('machines'))
      asked.push({
        machine,
        job: (await verb.call(client, machine, grace === undefined ? {} : { graceMs: grace })).job,
      });
    const jobs = [];
    for (const { job } of asked) jobs.push(args.unless('wait') ? await waitForJob(client, out, job.id) : job);
    out.result(jobs, () =>
      asked
        .map(({ machine, job }) =>
          args.unless('wait') ? `${machine}: ${verb.done}` : `${machine}: job ${job.id}`,
        )
        .join('\n'),
    );
    return undefined;
  };
}
