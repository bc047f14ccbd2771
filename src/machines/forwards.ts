/**
 * Port forwards of this host, held by the daemon: a row each, and a relay that makes it true. The rows are
 * looked at after every change that is announced, so they come back after a restart and go with their machine.
 */
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import type { Actor } from '#base/actor.ts';
import type { Forward, NewForward } from '#contract/schemas/forwards.ts';
import { isLoopback } from '#fabric/listeners.ts';
import type { Fd } from '#host/fds.ts';
import { type Store, transaction } from '#store/database.ts';
import { eventsChannel } from '#store/events.ts';
import { insertForward } from '#store/forwards.ts';
import { selectMachineForUpdate } from '#store/machines.ts';
import type { Db } from '#store/schema.ts';
import { visible } from './list.ts';
import { openRelay, type Relay } from './relay.ts';

export interface ForwardsOptions {
  readonly store: Pick<Store, 'db' | 'listen'>;
  /** Opens a listening socket in the host's network namespace. */
  readonly openListener: (endpoint: { host: string; port: number }) => Promise<{ readonly socket: Fd }>;
  readonly log?: Logger;
  /** How soon a port that could not be had is asked for again. */
  readonly retryMs?: number;
  /** Of all forwards together; each takes two of our descriptors, and we need some for everything else. */
  readonly maxConnections?: number;
}

export interface Forwards {
  list(machineId: string): Promise<Forward[]>;
  /** Those of all machines that the actor can see, in the order of their ids. */
  listVisible(actor: Actor, page: { readonly after?: string; readonly limit: number }): Promise<Forward[]>;
  /** Listens when it returns, or there is no such forward. */
  create(actor: Actor, machineId: string, wanted: NewForward): Promise<Forward>;
  /** Nothing listens, and no connection is left, when it returns. */
  remove(machineId: string, id: string): Promise<void>;
  close(): Promise<void>;
}

/** Of one machine. */
const maxForwards = 16;
/** Changes that come together are looked at together. */
const gatherMs = 100;

interface Held {
  relay: Relay | undefined;
  error: string | undefined;
}

interface Wanted {
  readonly id: string;
  readonly machine_id: string;
  readonly host: string;
  readonly port: number;
  readonly machine_port: number;
}

export function openForwards({
  store: { db, listen: listenToChanges },
  openListener,
  log = silent,
  retryMs = 2000,
  maxConnections = 2048,
}: ForwardsOptions): Forwards {
  const held = new Map<string, Held>();
  let turn: Promise<unknown> = Promise.resolve();
  let closed = false;
  /** One change at a time: a row that is being made is not opened twice. */
  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    const mine = turn.then(work);
    turn = mine.catch(() => undefined);
    return mine;
  };

  const connections = (): number =>
    [...held.values()].reduce((sum, { relay }) => sum + (relay?.connections ?? 0), 0);

  const listen = async (row: Wanted): Promise<void> => {
    const { socket } = await openListener({ host: row.host, port: row.port });
    const relay = await openRelay({
      socket,
      target: async () => {
        if (connections() > maxConnections)
          throw new CarrelError('no_capacity', `more than ${maxConnections} connections in all forwards`);
        return targetOf(db, row);
      },
      failed: (reason) => log.debug('a forwarded connection came to nothing', { forward: row.id, reason }),
    });
    held.set(row.id, { relay, error: undefined });
  };

  const drop = async (id: string): Promise<void> => {
    const one = held.get(id);
    held.delete(id);
    await one?.relay?.close();
  };

  const agree = async (): Promise<void> => {
    const rows = await selectWanted(db);
    const ids = new Set(rows.map(({ id }) => id));
    for (const id of held.keys()) if (!ids.has(id)) await drop(id);
    for (const row of rows) {
      const one = held.get(row.id);
      if (closed || one?.relay) continue;
      try {
        await listen(row);
        log.info('forwarding', { host: row.host, port: row.port, machine: row.machine_id });
      } catch (error) {
        const reason = messageOf(error);
        if (one?.error !== reason)
          log.warn('a port cannot be forwarded now', { host: row.host, port: row.port, reason });
        held.set(row.id, { relay: undefined, error: reason });
      }
    }
  };

  let timer: NodeJS.Timeout | undefined;
  const lookIn = (ms: number): void => {
    if (!closed) timer ??= setTimeout(look, ms);
  };
  const look = (): void => {
    timer = undefined;
    inTurn(agree).then(
      () => {
        if ([...held.values()].some(({ relay }) => relay === undefined)) lookIn(retryMs);
      },
      (error: unknown) => {
        log.warn('forwards could not be looked at', { error: messageOf(error) });
        lookIn(retryMs);
      },
    );
  };
  look(); // in the background: nobody waits for a port that is hard to get
  // new ones are made here; what comes from elsewhere is the end of a machine
  const listening = listenToChanges(eventsChannel, () => {
    if (held.size > 0) lookIn(gatherMs);
  });

  const viewOf = (row: ForwardRow): Forward => {
    const one = held.get(row.id);
    return {
      id: row.id,
      machineId: row.machine_id,
      machine: row.machine,
      host: row.host,
      port: row.port,
      machinePort: row.machine_port,
      state: one?.relay ? 'listening' : 'failed',
      error: one?.relay ? null : (one?.error ?? 'not listening yet'),
      connections: one?.relay?.connections ?? 0,
      createdAt: row.created_at.toISOString(),
    };
  };

  return {
    async list(machineId) {
      return (await selectForwards(db).where('f.machine_id', '=', machineId).execute()).map(viewOf);
    },
    async listVisible(actor, { after = '', limit }) {
      const rows = await selectForwards(db)
        .where('f.machine_id', 'in', visible(db, actor, {}).clearSelect().select('m.id'))
        .where('f.id', '>', after)
        .limit(limit)
        .execute();
      return rows.map(viewOf);
    },
    async create(actor, machineId, { host, port, machinePort }) {
      if (!isLoopback(host) && !actor.admin)
        throw new CarrelError('forbidden', `only administrators open ports on ${host}`, {
          hint: 'leave the address out: the forward is then reached on 127.0.0.1 of the host',
        });
      return inTurn(async () => {
        const row = await transaction(db, async (tx) => {
          await selectMachineForUpdate(tx, machineId);
          const { count } = await tx
            .selectFrom('machine_forwards')
            .select(({ fn }) => fn.countAll<number>().as('count'))
            .where('machine_id', '=', machineId)
            .executeTakeFirstOrThrow();
          if (count >= maxForwards)
            throw new CarrelError('quota_exceeded', `a machine may have ${maxForwards} forwards`, {
              hint: 'remove one: carrel forward rm MACHINE PORT',
            });
          return insertForward(tx, {
            machine_id: machineId,
            host,
            port,
            machine_port: machinePort,
            created_by: actor.id,
          });
        });
        try {
          await listen(row);
        } catch (error) {
          await db.deleteFrom('machine_forwards').where('id', '=', row.id).execute();
          throw explain(error);
        }
        const [made] = await selectForwards(db).where('f.id', '=', row.id).execute();
        if (made) return viewOf(made);
        await drop(row.id);
        throw new CarrelError('not_found', `machine ${machineId} was deleted meanwhile`);
      });
    },
    async remove(machineId, id) {
      await inTurn(async () => {
        const { numDeletedRows } = await db
          .deleteFrom('machine_forwards')
          .where('id', '=', id)
          .where('machine_id', '=', machineId)
          .executeTakeFirst();
        if (numDeletedRows === 0n) throw new CarrelError('not_found', `forward ${id} does not exist`);
        await drop(id);
      });
    },
    async close() {
      closed = true;
      clearTimeout(timer);
      (await listening)();
      await inTurn(async () => {
        for (const id of held.keys()) await drop(id);
      });
    },
  };
}

/** A port that somebody else has is the caller's to change, not the cloud's to repair. */
function explain(error: unknown): unknown {
  if (!isCarrelError(error, 'unavailable') || !/ in use /.test(error.message)) return error;
  return new CarrelError('name_taken', error.message, {
    ...(error.hint !== undefined && { hint: error.hint }),
    cause: error,
  });
}

/** One that sleeps is called running, and the first packet wakes it. */
async function targetOf(
  db: Db,
  { machine_id, machine_port }: Wanted,
): Promise<{ host: string; port: number }> {
  const machine = await db
    .selectFrom('machines')
    .select(['name', 'state', 'address'])
    .where('id', '=', machine_id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  if (machine?.state !== 'running' || machine.address === null)
    throw new CarrelError('wrong_state', `machine ${machine?.name ?? machine_id} is not running`);
  return { host: machine.address, port: machine_port };
}

async function selectWanted(db: Db): Promise<Wanted[]> {
  return db
    .selectFrom('machine_forwards as f')
    .innerJoin('machines as m', 'm.id', 'f.machine_id')
    .select(['f.id', 'f.machine_id', 'f.host', 'f.port', 'f.machine_port'])
    .where('m.deleted_at', 'is', null)
    .orderBy('f.created_at')
    .execute();
}

function selectForwards(db: Db) {
  return db
    .selectFrom('machine_forwards as f')
    .innerJoin('machines as m', 'm.id', 'f.machine_id')
    .select([
      'f.id',
      'f.machine_id',
      'm.name as machine',
      'f.host',
      'f.port',
      'f.machine_port',
      'f.created_at',
    ])
    .where('m.deleted_at', 'is', null)
    .orderBy('f.id');
}

type ForwardRow = Awaited<ReturnType<ReturnType<typeof selectForwards>['execute']>>[number];
