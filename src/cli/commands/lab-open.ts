/** Your own machine for a lab. */
import type { Client } from '#contract/client.ts';
import { isCarrelError } from '#base/errors.ts';
import { filesOf } from '../archive.ts';
import { findLab } from '../lookup.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';
import { keysOf, renderMachine, whatNext } from './machines.ts';

/**
 * The lab's start files in a machine that has no shell to fetch them with. What is there already is the student's work
 * and stays.
 */
async function putStartFiles(client: Client, lab: string, machine: string): Promise<string[]> {
  const put: string[] = [];
  for await (const { path, bytes } of filesOf(await client.getLabStart({ params: { lab } }))) {
    if (path.includes('/') || (await isThere(client, machine, path))) continue; // it has one folder
    await client.writeFile({ params: { machine }, query: { path }, bytes });
    put.push(path);
  }
  return put;
}

async function isThere(client: Client, machine: string, path: string): Promise<boolean> {
  try {
    await client.readFile({ params: { machine }, query: { path } });
    return true;
  } catch (error) {
    if (isCarrelError(error, 'not_found')) return false;
    throw error;
  }
}

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
  const put = machine.driver === 'micro' ? await putStartFiles(client, lab.id, machine.id) : [];
  out.result(machine, () => `${renderMachine(machine, out)}\n${whatNext(machine)}`);
  if (put.length > 0) out.note(`In it now: ${put.join(', ')}`);
  return undefined;
};
