/** `carrel status`: the cloud of this host, from outside and from inside. */
import { messageOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { connect, readAddress } from '../connection.ts';
import { findProcesses, type CloudProcess } from '../local/belongings.ts';
import { askDoorman, dataDirectory } from '../local/directory.ts';
import { exitCodes } from '../exit-codes.ts';
import type { Action } from '../spec.ts';
import { renderTable } from '../ui/table.ts';
import { all } from '../waiting.ts';

interface Inside {
  readonly health: string;
  readonly machines: Readonly<Record<string, number>>;
  readonly jobs: Readonly<Record<string, number>>;
}

function count(words: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

async function lookInside(data: string): Promise<Inside | { problem: string }> {
  try {
    const { client } = await connect({ data });
    const health = await client.getHealth({ params: {} }, { signal: AbortSignal.timeout(5000) });
    const machines = await all((page) => client.listMachines({ params: {}, query: page }));
    const open = await Promise.all(
      (['queued', 'running'] as const).map(
        async (state) => (await client.listJobs({ params: {}, query: { state, limit: 500 } })).items,
      ),
    );
    return {
      health: health.status,
      machines: count(machines.map(({ activity, state }) => activity ?? state)),
      jobs: count(open.flat().map(({ state }) => state)),
    };
  } catch (error) {
    return { problem: messageOf(error) };
  }
}

interface RoleSum {
  readonly role: string;
  readonly processes: readonly CloudProcess[];
  readonly memoryBytes: number;
}

const order = ['doorman', 'daemon', 'database', 'runtime', 'worker', 'uplink', 'holder', 'machine', 'fabric'];

function byRole(processes: readonly CloudProcess[]): RoleSum[] {
  return order.flatMap((role) => {
    const own = processes.filter((process) => process.role === role);
    const memoryBytes = own.reduce((sum, process) => sum + (process.memoryBytes ?? 0), 0);
    return own.length === 0 ? [] : [{ role, processes: own, memoryBytes }];
  });
}

const words = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .map(([state, number]) => `${number} ${state}`)
    .join(', ') || 'none';

export const status: Action = async ({ args, out }) => {
  const data = dataDirectory(args);
  const doorman = await askDoorman(data);
  const address = await readAddress(data);
  const processes = await findProcesses(data);
  const inside = address ? await lookInside(data) : undefined;
  const up = doorman !== undefined && inside !== undefined && 'health' in inside;
  const memoryBytes = processes.reduce((sum, process) => sum + (process.memoryBytes ?? 0), 0);
  out.result(
    { up, data, url: address?.url ?? null, doorman: doorman ?? null, processes, memoryBytes, ...inside },
    () => {
      const lines = [
        up
          ? `Carrel is up: ${out.paint('bold', address?.url ?? '')}  (data in ${data})`
          : `No cloud is up in ${data}.`,
      ];
      if (inside && 'problem' in inside) lines.push(`  it does not answer: ${inside.problem}`);
      if (inside && 'health' in inside)
        lines.push(
          `health    ${out.state(inside.health)}`,
          `machines  ${words(inside.machines)}`,
          `jobs      ${words(inside.jobs)}`,
        );
      if (doorman)
        lines.push(
          `uplink    ${doorman.uplink.up ? 'up' : `none (${doorman.uplink.reason ?? 'starting'})`}`,
          `restarts  ${doorman.daemonRestarts} of the daemon`,
        );
      if (processes.length > 0)
        lines.push(
          `memory    ${formatSize(memoryBytes)}`,
          '',
          renderTable(byRole(processes), [
            { head: 'ROLE', cell: (sum) => sum.role },
            { head: 'PROCESSES', cell: (sum) => sum.processes.length, align: 'right' },
            { head: 'MEMORY', cell: (sum) => formatSize(sum.memoryBytes), align: 'right' },
            {
              head: 'PIDS',
              cell: (sum) =>
                sum.processes
                  .map(({ pid }) => pid)
                  .slice(0, 8)
                  .join(' '),
            },
          ]),
        );
      if (!up && processes.length > 0)
        lines.push(
          '',
          'Processes of an earlier run are left: carrel up takes them over, carrel down ends them.',
        );
      if (!up && processes.length === 0) lines.push('  start it with: carrel up');
      return lines.join('\n');
    },
  );
  return up ? undefined : exitCodes.unavailable;
};
