/** Your own machine for a lab. */
import { findLab } from '../lookup.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';
import { keysOf, renderMachine } from './machines.ts';

export const labOpen: Action = async ({ args, out, connect }) => {
  const name = args.option('name');
  const sshKeys = await keysOf(args.many('sshKey'));
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const { job, id } = await client.openLabMachine({
    params: { lab: lab.id },
    body: { sshKeys, ...(name !== undefined && { name }) },
  });
  if (!args.unless('wait')) {
    out.result({ id, job }, () => `${id} is being opened: carrel job wait ${job.id}`);
    return undefined;
  }
  await waitForJob(client, out, job.id);
  const machine = await client.getMachine({ params: { machine: id ?? lab.name } });
  out.result(
    machine,
    () => `${renderMachine(machine, out)}\nA shell in it: carrel machine exec ${machine.name}`,
  );
  return undefined;
};
