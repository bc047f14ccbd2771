/** `carrel down`: ends everything of the cloud, and looks whether that is true. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { CarrelError, messageOf } from '#base/errors.ts';
import { requestShutdown } from '#fabric/control.ts';
import { controlPath } from '#fabric/doorman.ts';
import { launchOk } from '#host/launch.ts';
import { endProcess, untilGone } from '#host/processes.ts';
import { stopCluster } from '#store/cluster.ts';
import { addressPath, connect } from '../connection.ts';
import {
  detachLoop,
  findGroups,
  findLoops,
  findMounts,
  findProcesses,
  removeGroup,
} from '../local/belongings.ts';
import { dataDirectory, doormanProcess } from '../local/directory.ts';
import { findWorkerGroups } from '../local/worker-groups.ts';
import type { Action, Context } from '../spec.ts';
import { all } from '../waiting.ts';
import type { Output } from '../ui/output.ts';

/** Stops the machines through the API, side by side, so that their rows say so. */
async function stopMachines(data: string, graceMs: number, out: Output): Promise<string[]> {
  const { client } = await connect({ data });
  const machines = (await all((page) => client.listMachines({ params: {}, query: page }))).filter(
    ({ state }) => state === 'running' || state === 'paused',
  );
  using progress = out.progress();
  const stopped: string[] = [];
  const stops = machines.map(async (machine) => {
    const { job } = await client.stopMachine({ params: { machine: machine.id }, body: { graceMs } });
    await client.getJob({ params: { job: job.id }, query: { wait: Math.min(60, graceMs / 1000 + 10) } });
    stopped.push(machine.name);
    progress.update('machines stopped', stopped.length, machines.length);
  });
  for (const result of await Promise.allSettled(stops))
    if (result.status === 'rejected')
      out.note(`  a machine did not stop in order: ${messageOf(result.reason)}`);
  return stopped;
}

/** What a doorman that was killed, or never came back, left behind. */
async function sweep(data: string, graceMs: number): Promise<string[]> {
  const removed: string[] = [];
  if (await stopCluster({ dataDir: data })) removed.push('database');
  for (let round = 0; round < 5; round += 1) {
    const left = (await findProcesses(data)).filter(({ role }) => role !== 'doorman');
    if (left.length === 0) break;
    await Promise.all(
      left.map(async (process) => {
        await endProcess(process, { graceMs: process.role === 'machine' ? 0 : Math.min(graceMs, 2000) });
        removed.push(`${process.role} ${process.name} (process ${process.pid})`);
      }),
    );
  }
  for (const path of await findMounts(data)) {
    await launchOk(['umount', path]);
    removed.push(`mount ${path}`);
  }
  for (const device of await findLoops(data)) {
    await detachLoop(device);
    removed.push(`loop device ${device}`);
  }
  for (const group of [...(await findGroups(data)), ...(await findWorkerGroups(data))])
    if (await removeGroup(group)) removed.push(`cgroup ${group}`);
  for (const name of ['fabric.json', 'daemon.json', 'uplink.json'])
    await rm(`${data}/run/${name}`, { force: true });
  await rm(addressPath(data), { force: true });
  return removed;
}

/** What is left in spite of everything. */
async function leftovers(data: string): Promise<string[]> {
  return [
    ...(await findProcesses(data)).map(({ pid, name, role }) => `${role} ${name} (process ${pid})`),
    ...(await findGroups(data)),
    ...(await findWorkerGroups(data)),
    ...(await findLoops(data)),
    ...(await findMounts(data)),
  ];
}

async function endDoorman(data: string, out: Output): Promise<boolean> {
  const doorman = doormanProcess(data);
  if (!doorman) return false;
  using progress = out.progress();
  progress.update('daemon, database and uplink end');
  await requestShutdown(controlPath(data), { fabric: true });
  await untilGone(doorman, 40_000, 'the doorman').catch(async () => await endProcess(doorman));
  return true;
}

export const down: Action = async ({ args, out }: Context) => {
  const data = dataDirectory(args);
  const graceMs = args.duration('grace') ?? 5000;
  if (!existsSync(data)) {
    out.result({ data, removed: [] }, () => `There is no cloud in ${data}.`);
    return undefined;
  }
  if (process.getuid?.() !== 0)
    throw new CarrelError('host_unsupported', 'a cloud is stopped by root', { hint: 'sudo carrel down' });
  const removed: string[] = [];
  if (doormanProcess(data)) {
    try {
      removed.push(...(await stopMachines(data, graceMs, out)).map((name) => `machine ${name}`));
    } catch (error) {
      out.note(`  the machines cannot be stopped in order: ${messageOf(error)}`);
    }
  }
  if (await endDoorman(data, out)) removed.push('daemon, database, uplink and fabric');
  removed.push(...(await sweep(data, graceMs)));
  const left = await leftovers(data);
  if (left.length > 0)
    throw new CarrelError('internal', `still there: ${left.join(', ')}`, {
      hint: 'carrel down --grace 0',
      details: { left },
    });
  out.result({ data, removed }, () =>
    removed.length === 0
      ? `Nothing was running in ${data}.`
      : [
          `Stopped; nothing is left running. The data stays in ${data}.`,
          ...removed.map((what) => `  ${what}`),
        ].join('\n'),
  );
  return undefined;
};
