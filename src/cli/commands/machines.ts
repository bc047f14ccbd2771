/** Machines: make, list, look. */
import { readFile } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { numbersInWords } from '#base/numbered.ts';
import { formatDuration, formatSize } from '#base/units.ts';
import { faultOfKey } from '#contract/schemas/keys.ts';
import {
  driverName,
  machineOrder,
  machineState,
  newMachine,
  type Machine,
  type Runtime,
} from '#contract/schemas/machines.ts';
import type { Action } from '../spec.ts';
import { linesOfFile } from './script.ts';
import type { Column } from '../ui/table.ts';
import type { Output } from '../ui/output.ts';
import { all, waitForJob } from '../waiting.ts';

function stateOf(machine: Machine): string {
  return machine.activity ?? (machine.asleep ? 'asleep' : machine.state);
}

/** `qemu/tcg`: how a virtual machine runs is part of what it is. */
function kindOf({ driver, runtime }: Machine): string {
  return runtime?.accelerator ? `${driver}/${runtime.accelerator}` : driver;
}

function columns(out: Output): Column<Machine>[] {
  return [
    { head: 'NAME', cell: (machine) => machine.name },
    { head: 'STATE', cell: stateOf, paint: out.state },
    { head: 'ADDRESS', cell: (machine) => machine.address },
    { head: 'IMAGE', cell: (machine) => machine.image },
    { head: 'RUNS AS', cell: (machine) => kindOf(machine) },
    { head: 'OWNER', cell: (machine) => machine.owner },
    { head: 'CPUS', cell: (machine) => machine.limits.cpus, align: 'right' },
    { head: 'MEMORY', cell: (machine) => formatSize(machine.limits.memoryBytes), align: 'right' },
    { head: 'ID', cell: (machine) => machine.id },
  ];
}

export function renderMachine(machine: Machine, out: Output): string {
  const runtime = machine.runtime ? describeRuntime(machine.runtime, machine.driver) : undefined;
  const rate =
    machine.bytesPerSecond === null ? '' : `, at most ${formatSize(machine.bytesPerSecond)}/s each way`;
  // of a virtual machine they are the guest's own business
  const processes = machine.driver === 'container' ? `${machine.limits.processes} processes, ` : '';
  const labels = Object.entries(machine.labels).map(([key, value]) => `${key}=${value}`);
  return [
    `${out.paint('bold', machine.name)}  ${out.state(stateOf(machine))}`,
    ...(machine.failure
      ? [
          `failure     ${machine.failure.message}`,
          ...(machine.failure.hint ? [`            ${machine.failure.hint}`] : []),
        ]
      : []),
    `id          ${machine.id}, owner ${machine.owner}`,
    `image       ${machine.image} (${machine.driver})`,
    ...(runtime === undefined ? [] : [`runs        ${runtime}`]),
    ...(machine.network === null ? [] : [`network     ${machine.network}${rate}`]),
    `address     ${machine.address ?? '-'}${machine.mac ? `, ${machine.mac}` : ''}`,
    `limits      ${machine.limits.cpus} cpus, ${formatSize(machine.limits.memoryBytes)} memory, ${processes}${formatSize(machine.limits.diskBytes)} disk`,
    ...(labels.length > 0 ? [`labels      ${labels.join(', ')}`] : []),
    `made        ${machine.createdAt}${machine.expiresAt ? `, deleted ${machine.expiresAt}` : ''}`,
  ].join('\n');
}

/** In which words its speed is explained: nothing for a container, whose programs run as the host's own. */
function describeRuntime(
  { accelerator, startedFrom, note }: Runtime,
  driver: Machine['driver'],
): string | undefined {
  if (accelerator === null) return undefined;
  const how = accelerator === 'kvm' ? 'virtualized (KVM)' : 'emulated (TCG)';
  const booted = driver === 'micro' ? 'by our own hypervisor' : 'booted from its disk';
  const from = startedFrom === 'template' ? 'from a template' : booted;
  return `${how}, ${from}${note === null ? '' : `: ${note}`}`;
}

/** The public keys in files as ssh-keygen writes them; lines that are empty or comments do not count. */
export async function keysOf(files: readonly string[]): Promise<string[]> {
  const keys: string[] = [];
  for (const file of files) {
    const lines = (await readFile(file, 'utf8')).split('\n').map((line) => line.trim());
    const found = lines.filter((line) => line !== '' && !line.startsWith('#'));
    for (const line of found) {
      const fault = faultOfKey(line);
      if (fault !== undefined)
        throw new CarrelError('invalid_request', `${file} is not a public key: ${fault}`, {
          hint: 'name the file that ends with .pub',
        });
    }
    keys.push(...found);
  }
  return keys;
}

export const machineNew: Action = async ({ args, out, connect }) => {
  const name = args.word('name');
  const image = args.option('image');
  const course = args.option('course');
  const ttl = args.duration('ttl');
  const driver = driverName.optional().parse(args.option('driver'));
  const network = args.option('network');
  const networkNumber = args.number('number');
  if (!newMachine.shape.networkNumber.safeParse(networkNumber).success)
    throw new CarrelError('invalid_request', `--number wants one of ${numbersInWords}, not ${networkNumber}`);
  const rate = args.size('rate');
  const idleFreeze = args.duration('idleFreeze');
  const sshKeys = await keysOf(args.many('sshKey'));
  const starter = args.option('starter');
  const lines = starter === undefined ? undefined : await linesOfFile(starter);
  const wanted = {
    cpus: args.number('cpus'),
    memoryBytes: args.size('memory'),
    processes: args.number('processes'),
    diskBytes: args.size('disk'),
  };
  const { client } = await connect();
  const { job, id } = await client.createMachine(
    {
      params: {},
      body: {
        name,
        limits: wanted,
        labels: args.pairs('label'),
        start: !args.flag('stopped'),
        sshKeys,
        ...(driver && { driver }),
        ...(network !== undefined && { network }),
        ...(networkNumber !== undefined && { networkNumber }),
        ...(rate !== undefined && { bytesPerSecond: rate }),
        ...(idleFreeze !== undefined && { idleFreezeSeconds: Math.round(idleFreeze / 1000) }),
        ...(image !== undefined && { image }),
        ...(course !== undefined && { course }),
        ...(lines && { starter: { lines } }),
        ...(ttl !== undefined && { ttlSeconds: Math.round(ttl / 1000) }),
      },
    },
    { idempotencyKey: crypto.randomUUID() },
  );
  if (!args.unless('wait')) {
    out.result({ id, job }, () => `${name} (${id}) is being made: carrel job wait ${job.id}`);
    return undefined;
  }
  await waitForJob(client, out, job.id);
  const machine = await client.getMachine({ params: { machine: id ?? name } });
  out.result(machine, () => `${renderMachine(machine, out)}\n${whatNext(machine)}`);
  if (lines) out.note(`Its starter script: carrel script show ${name}`);
  return undefined;
};

/** What to do with a machine that is there. */
export function whatNext({ name, driver, state, failure }: Machine): string {
  if (driver !== 'micro') return `A shell in it: carrel machine exec ${name}`;
  return state === 'stopped' && failure === null
    ? `A guest in it: carrel machine put ${name} hello.c hello.c; carrel machine run ${name} hello.c`
    : `How its run went: carrel machine inspect ${name}`;
}

export const machineList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const state = machineState.optional().parse(args.option('state'));
  const sort = machineOrder.optional().parse(args.option('sort'));
  const given = Object.fromEntries(
    ['owner', 'course', 'label'].flatMap((key) => {
      const value = args.option(key);
      return value === undefined ? [] : [[key, value]];
    }),
  );
  const machines = await all((page) =>
    client.listMachines({
      params: {},
      query: { ...page, ...given, ...(state && { state }), ...(sort && { sort }) },
    }),
  );
  out.table(machines, columns(out), 'no machines; make one with: carrel machine new NAME');
  return undefined;
};

export const machineShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = await client.getMachine({ params: { machine: args.word('machine') } });
  out.result(machine, () => renderMachine(machine, out));
  return undefined;
};

const size = (bytes: number | null): string => (bytes === null ? '-' : formatSize(bytes));

export const machineStats: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const named = args.words('machines');
  const names =
    named.length > 0
      ? named
      : (await all((page) => client.listMachines({ params: {}, query: { ...page, state: 'running' } }))).map(
          (machine) => machine.id,
        );
  const rows = [];
  for (const machine of names) {
    try {
      rows.push({ machine, ...(await client.getStats({ params: { machine } })) });
    } catch (error) {
      // one that has just stopped is no reason to show nothing of the others
      if (named.length > 0 || !(error instanceof CarrelError)) throw error;
    }
  }
  out.table(
    rows,
    [
      { head: 'MACHINE', cell: (row) => row.machine },
      { head: 'CPU TIME', cell: (row) => formatDuration(row.cpuMs), align: 'right' },
      { head: 'MEMORY', cell: (row) => size(row.memoryBytes), align: 'right' },
      { head: 'PEAK', cell: (row) => size(row.peakMemoryBytes), align: 'right' },
      { head: 'PROCESSES', cell: (row) => row.processes, align: 'right' },
      { head: 'DISK', cell: (row) => size(row.diskBytes), align: 'right' },
      { head: 'OOM KILLS', cell: (row) => row.oomKills, align: 'right' },
      { head: 'RECEIVED', cell: (row) => size(row.network?.receivedBytes ?? null), align: 'right' },
      { head: 'SENT', cell: (row) => size(row.network?.sentBytes ?? null), align: 'right' },
    ],
    'no machine is running',
  );
  return undefined;
};
