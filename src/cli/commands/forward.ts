/** `carrel forward`: ports of the host that lead into machines. */
import { isIPv4, isIPv6 } from 'node:net';
import { CarrelError } from '#base/errors.ts';
import type { Forward } from '#contract/schemas/forwards.ts';
import type { Action } from '../spec.ts';
import { all } from '../waiting.ts';

export interface Ports {
  readonly host?: string;
  readonly port: number;
  readonly machinePort: number;
}

/** `8080:80`, `127.0.0.1:8080:80`, `[::1]:8080:80`. */
export function parsePorts(text: string): Ports {
  const match = /^(?:(?:\[([\da-fA-F:.]+)\]|([\d.]+)|localhost):)?(\d{1,5}):(\d{1,5})$/.exec(text);
  const [, six, four] = match ?? [];
  const valid = (six === undefined || isIPv6(six)) && (four === undefined || isIPv4(four));
  const [port, machinePort] = [Number(match?.[3]), Number(match?.[4])];
  if (!match || !valid || port > 65535 || machinePort > 65535 || machinePort < 1)
    throw new CarrelError('invalid_request', `Invalid ports to forward: ${text}`, {
      hint: 'write the port of the host, a colon, and the port of the machine: 8080:80',
    });
  const host = six ?? four;
  return { port, machinePort, ...(host !== undefined && { host }) };
}

const whereOf = ({ host, port }: Pick<Forward, 'host' | 'port'>): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

export const forwardAdd: Action = async ({ args, out, connect }) => {
  const ports = parsePorts(args.word('ports'));
  const { client } = await connect();
  const forward = await client.createForward({ params: { machine: args.word('machine') }, body: ports });
  out.result(
    forward,
    () =>
      `${whereOf(forward)} of the cloud’s host leads to port ${forward.machinePort} of ${forward.machine}`,
  );
  return undefined;
};

export const forwardList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = args.wordIf('machine');
  const forwards =
    machine === undefined
      ? await all((query) => client.listAllForwards({ params: {}, query }))
      : (await client.listForwards({ params: { machine } })).items;
  out.table(
    forwards,
    [
      { head: 'HOST', cell: whereOf },
      { head: 'MACHINE', cell: (forward) => forward.machine },
      { head: 'PORT', cell: (forward) => forward.machinePort, align: 'right' },
      { head: 'STATE', cell: (forward) => forward.error ?? forward.state },
      { head: 'OPEN', cell: (forward) => forward.connections, align: 'right' },
      { head: 'ID', cell: (forward) => forward.id },
    ],
    'no forwards; make one with: carrel forward MACHINE 8080:80',
  );
  return undefined;
};

export const forwardRemove: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = args.word('machine');
  const { items } = await client.listForwards({ params: { machine } });
  const meant = args.words('forwards').map((word) => {
    const found = items.find(({ id, port }) => id === word || String(port) === word);
    if (found) return found;
    throw new CarrelError('not_found', `${machine} has no forward ${word}`, {
      hint: `see: carrel forward ls ${machine}`,
    });
  });
  for (const { id } of meant) await client.removeForward({ params: { machine, forward: id } });
  out.result(meant, () => meant.map((forward) => `${whereOf(forward)}: ended`).join('\n'));
  return undefined;
};
