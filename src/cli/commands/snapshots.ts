/** Snapshots, copies and passwords of machines. */
import { formatSize } from '#base/units.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import type { Action, Context } from '../spec.ts';
import { waitForJob } from '../waiting.ts';
import { renderMachine } from './machines.ts';

/** Waits for the job, unless told not to, and says so in a line. */
async function settle({ args, out, connect }: Context, job: Job, done: string): Promise<undefined> {
  const { client } = await connect();
  const ended = args.unless('wait') ? await waitForJob(client, out, job.id) : job;
  out.result(ended, () => (args.unless('wait') ? done : `carrel job wait ${job.id}`));
  return undefined;
}

export const snapshotList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = args.word('machine');
  const { items } = await client.listSnapshots({ params: { machine } });
  out.table(
    items,
    [
      { head: 'NAME', cell: (snapshot) => snapshot.name },
      { head: 'STATE', cell: (snapshot) => snapshot.state, paint: out.state },
      {
        head: 'SIZE',
        cell: (snapshot) => (snapshot.bytes === null ? '-' : formatSize(snapshot.bytes)),
        align: 'right',
      },
      { head: 'MADE', cell: (snapshot) => snapshot.createdAt },
      { head: 'ID', cell: (snapshot) => snapshot.id },
    ],
    `no snapshots; make one with: carrel snapshot new ${machine} NAME`,
  );
  return undefined;
};

export const snapshotNew: Action = async (context) => {
  const { args, connect } = context;
  const { client } = await connect();
  const machine = args.word('machine');
  const name = args.word('name');
  const { job } = await client.createSnapshot(
    { params: { machine }, body: { name } },
    { idempotencyKey: crypto.randomUUID() },
  );
  return settle(context, job, `${name} is kept. Back to it: carrel snapshot restore ${machine} ${name}`);
};

export const snapshotRemove: Action = async (context) => {
  const { args, connect } = context;
  const { client } = await connect();
  const snapshot = args.word('name');
  const { job } = await client.deleteSnapshot({ params: { machine: args.word('machine'), snapshot } });
  return settle(context, job, `${snapshot} is deleted.`);
};

export const snapshotRestore: Action = async (context) => {
  const { args, connect } = context;
  const { client } = await connect();
  const machine = args.word('machine');
  const snapshot = args.word('name');
  const { job } = await client.restoreSnapshot({ params: { machine, snapshot } });
  return settle(context, job, `The disk of ${machine} is again what it was in ${snapshot}.`);
};

export const machineClone: Action = async (context) => {
  const { args, out, connect } = context;
  const { client } = await connect();
  const name = args.word('name');
  const snapshot = args.option('snapshot');
  const { job, id } = await client.cloneMachine(
    {
      params: { machine: args.word('machine') },
      body: { name, start: !args.flag('stopped'), ...(snapshot !== undefined && { snapshot }) },
    },
    { idempotencyKey: crypto.randomUUID() },
  );
  if (!args.unless('wait')) {
    out.result({ id, job }, () => `${name} (${id}) is being made: carrel job wait ${job.id}`);
    return undefined;
  }
  await waitForJob(client, out, job.id);
  const machine = await client.getMachine({ params: { machine: id ?? name } });
  out.result(machine, () => renderMachine(machine, out));
  return undefined;
};

export const machinePassword: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = args.word('machine');
  const made = await client.resetPassword({ params: { machine } });
  out.note(`The new password of ${made.user} in ${machine}. It is shown once:`);
  out.result(made, () => made.password);
  return undefined;
};
