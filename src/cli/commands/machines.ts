/** Machines: make, list, look. */
import { CarrelError } from '#base/errors.ts';
import { formatDuration, formatSize } from '#base/units.ts';
import { limits, machineState, type Machine } from '#contract/schemas/machines.ts';
import type { Action } from '../spec.ts';
import { linesOfFile } from './script.ts';
import type { Column } from '../ui/table.ts';
import type { Output } from '../ui/output.ts';
import { all, waitForJob } from '../waiting.ts';

function stateOf(machine: Machine): string {
  return machine.activity ?? machine.state;
}

function columns(out: Output): Column<Machine>[] {
  return [
    { head: 'NAME', cell: (machine) => machine.name },
    { head: 'STATE', cell: stateOf, paint: out.state },
    { head: 'ADDRESS', cell: (machine) => machine.address },
    { head: 'IMAGE', cell: (machine) => machine.image },
    { head: 'OWNER', cell: (machine) => machine.owner },
    { head: 'CPUS', cell: (machine) => machine.limits.cpus, align: 'right' },
    { head: 'MEMORY', cell: (machine) => formatSize(machine.limits.memoryBytes), align: 'right' },
    { head: 'ID', cell: (machine) => machine.id },
  ];
}

export function renderMachine(machine: Machine, out: Output): string {
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
    `address     ${machine.address ?? '-'}${machine.mac ? `, ${machine.mac}` : ''}`,
    `limits      ${machine.limits.cpus} cpus, ${formatSize(machine.limits.memoryBytes)} memory, ${machine.limits.processes} processes, ${formatSize(machine.limits.diskBytes)} disk`,
    ...(labels.length > 0 ? [`labels      ${labels.join(', ')}`] : []),
    `made        ${machine.createdAt}${machine.expiresAt ? `, deleted ${machine.expiresAt}` : ''}`,
  ].join('\n');
}

export const machineNew: Action = async ({ args, out, connect }) => {
  const name = args.word('name');
  const image = args.option('image');
  const course = args.option('course');
  const ttl = args.duration('ttl');
  const starter = args.option('starter');
  const lines = starter === undefined ? undefined : await linesOfFile(starter);
  const wanted = {
    cpus: args.number('cpus'),
    memoryBytes: args.size('memory'),
    processes: args.number('processes'),
    diskBytes: args.size('disk'),
  };
  const chosen = limits
    .partial()
    .parse(Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)));
  const { client } = await connect();
  const { job, id } = await client.createMachine(
    {
      params: {},
      body: {
        name,
        limits: chosen,
        labels: args.pairs('label'),
        start: !args.flag('stopped'),
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
  out.result(machine, () => `${renderMachine(machine, out)}\nA shell in it: carrel machine exec ${name}`);
  if (lines) out.note(`Its starter script: carrel script show ${name}`);
  return undefined;
};

export const machineList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const state = machineState.optional().parse(args.option('state'));
  const given = Object.fromEntries(
    ['owner', 'course', 'label'].flatMap((key) => {
      const value = args.option(key);
      return value === undefined ? [] : [[key, value]];
    }),
  );
  const machines = await all((page) =>
    client.listMachines({ params: {}, query: { ...page, ...given, ...(state && { state }) } }),
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
