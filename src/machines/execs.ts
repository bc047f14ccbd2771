/**
 * Programs that go on without their caller, and the console. Both live in the machine's keeper: a lost
 * connection, or a new daemon, changes nothing for them.
 */
import { join } from 'node:path';
import type { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import type { Exec, newExec, ProgramEnd } from '#contract/schemas/machines.ts';
import { json } from '#store/columns.ts';
import { type Exec as ExecRow, type ExecExit, insertExec, selectExec, updateExec } from '#store/execs.ts';
import { transaction } from '#store/database.ts';
import { selectMachine, selectMachineForUpdate } from '#store/machines.ts';
import type { Db } from '#store/schema.ts';
import type { Actor } from '#base/actor.ts';
import { type Cloud, driverFor, runningOf } from './cloud.ts';
import { consoleName, requireCapability, type Terminal } from './driver.ts';
import { wakingTerminal } from './idle.ts';
import { answering } from './answering.ts';
import { activityOf } from './rows.ts';
import { isAnswering } from './state.ts';
import { type Attachment, type AttachOptions, openStreams } from './stream.ts';

export type NewExec = z.output<typeof newExec>;

export interface ExecOutput {
  /** Offset of the first byte; later than asked for when bytes are no longer kept. */
  readonly from: number;
  readonly bytes: Uint8Array;
  readonly total: number;
}

export interface Execs {
  createExec(actor: Actor, machineId: string, wanted: NewExec): Promise<Exec>;
  getExec(machineId: string, execId: string): Promise<Exec>;
  execOutput(machineId: string, execId: string, options?: { from?: number | undefined }): Promise<ExecOutput>;
  /** What is kept of the console, also after the machine has ended. */
  consoleTranscript(machineId: string, options?: { from?: number | undefined }): Promise<ExecOutput>;
  /** The machine's console, or with `exec` a program's terminal. */
  attach(machineId: string, options?: AttachOptions & { readonly exec?: string }): Promise<Attachment>;
  /** Detaches everybody; the programs go on. */
  detachAll(): void;
}

/** Each keeps 2 MiB of output, and a small process while it runs. */
const maxUnfinished = 32;
/** Of programs that have ended, the output of this many is kept, the latest; how they ended is kept of all. */
const maxKept = 32;

export function openExecs(cloud: Cloud): Execs {
  const streams = openStreams();

  const place = (machineId: string) => ({ id: machineId, directory: join(cloud.directory, machineId) });

  const find = async (machineId: string, execId: string) => {
    const machine = await selectMachine(cloud.db, machineId);
    const driver = driverFor(cloud, machine);
    requireCapability(driver, 'exec');
    const row = await selectExec(cloud.db, execId);
    if (row.machine_id !== machineId) throw new CarrelError('not_found', `exec ${execId} does not exist`);
    return { row, open: () => driver.openExec(place(machineId), execId) };
  };

  return {
    async createExec(actor, machineId, wanted) {
      using _work = cloud.idleness.atWork(machineId);
      const machine = await answering(cloud, machineId, 'exec');
      if ((await countUnfinished(cloud.db, machineId)) >= maxUnfinished) await settleExecs(cloud, machineId);
      await dropOld(cloud, machineId);
      const row = await transaction(cloud.db, async (tx) => {
        // The machine's row is the lock: side by side, two requests would both count one too few.
        await selectMachineForUpdate(tx, machineId);
        if ((await countUnfinished(tx, machineId)) >= maxUnfinished)
          throw new CarrelError(
            'quota_exceeded',
            `a machine may have ${maxUnfinished} unfinished programs of this kind`,
            { hint: 'wait until some have ended, or use run' },
          );
        return insertExec(tx, {
          machine_id: machineId,
          argv: json<readonly string[]>(wanted.argv),
          tty: wanted.tty !== null,
          requested_by: actor.id,
          started_at: new Date(),
        });
      });
      try {
        await machine.exec(row.id, wanted);
      } catch (error) {
        await cloud.db.deleteFrom('execs').where('id', '=', row.id).execute();
        throw error;
      }
      return viewOf(row, 0);
    },
    async getExec(machineId, execId) {
      const { row, open } = await find(machineId, execId);
      if (row.ended_at !== null) return viewOf(row, row.exit?.['outputBytes']);
      using terminal = disposable(await open());
      const { total } = terminal.it.read(0, 0);
      return viewOf(await settle(cloud, row, terminal.it), total);
    },
    async execOutput(machineId, execId, { from } = {}) {
      const { open } = await find(machineId, execId);
      using terminal = disposable(await open());
      return readKept(terminal.it, from);
    },
    async consoleTranscript(machineId, { from } = {}) {
      const row = await selectMachine(cloud.db, machineId);
      const driver = driverFor(cloud, row);
      requireCapability(driver, 'console');
      const open = isAnswering({ state: row.state, activity: activityOf(row) })
        ? (await runningOf(cloud, row)).console()
        : driver.openExec(place(machineId), consoleName);
      using terminal = disposable(await open);
      return readKept(terminal.it, from);
    },
    async attach(machineId, { exec, ...options } = {}) {
      if (exec !== undefined) {
        const { open } = await find(machineId, exec);
        return streams.attach(exec, async () => wakingTerminal(cloud, machineId, await open()), options);
      }
      const machine = await answering(cloud, machineId, 'console');
      return streams.attach(
        `${machineId} console ${machine.process.startTime}`,
        async () => wakingTerminal(cloud, machineId, await machine.console()),
        options,
      );
    },
    detachAll: () => streams.close(),
  };
}

function disposable(terminal: Terminal): Disposable & { readonly it: Terminal } {
  return { it: terminal, [Symbol.dispose]: () => terminal.close() };
}

/** Everything that is kept from an offset on: with a hole in the middle, what comes after the hole. */
function readKept(terminal: Terminal, from: number | undefined): ExecOutput {
  const { total } = terminal.read(0, 0);
  const pieces: Uint8Array[] = [];
  let first: number | undefined;
  let at = Math.min(from ?? 0, total);
  while (at < total) {
    const piece = terminal.read(at);
    if (piece.bytes.length === 0) break;
    // who goes on by offset stops at a hole and sees it with the next request
    if (first !== undefined && piece.from > at && from !== undefined) break;
    first ??= piece.from;
    pieces.push(piece.bytes);
    at = piece.from + piece.bytes.length;
  }
  return { from: first ?? at, bytes: Buffer.concat(pieces), total };
}

/** Writes down how a program ended, once that is known. */
async function settle(cloud: Cloud, row: ExecRow, terminal: Terminal): Promise<ExecRow> {
  if (row.ended_at !== null || terminal.end === undefined) return row;
  const { total } = terminal.read(0, 0);
  const ended = { ended_at: new Date(), exit: exitOf(terminal.end, total) };
  await updateExec(cloud.db, row.id, { ended_at: ended.ended_at, exit: json(ended.exit) });
  return { ...row, ...ended };
}

/** Else somebody could fill the host's disk by starting programs. */
async function dropOld(cloud: Cloud, machineId: string): Promise<void> {
  const old = await cloud.db
    .selectFrom('execs')
    .select('id')
    .where('machine_id', '=', machineId)
    .where('ended_at', 'is not', null)
    .orderBy('created_at', 'desc')
    .offset(maxKept - 1)
    .limit(8) // those before them went when they were the oldest
    .execute();
  if (old.length === 0) return;
  const driver = driverFor(cloud, await selectMachine(cloud.db, machineId));
  for (const { id } of old)
    await driver.dropExec({ id: machineId, directory: join(cloud.directory, machineId) }, id);
}

async function countUnfinished(db: Db, machineId: string): Promise<number> {
  const { count } = await db
    .selectFrom('execs')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('machine_id', '=', machineId)
    .where('ended_at', 'is', null)
    .executeTakeFirstOrThrow();
  return count;
}

/** Looks after the programs of a machine that nobody has asked about. */
async function settleExecs(cloud: Cloud, machineId: string): Promise<void> {
  const machine = await selectMachine(cloud.db, machineId);
  const rows = await cloud.db
    .selectFrom('execs')
    .selectAll()
    .where('machine_id', '=', machineId)
    .where('ended_at', 'is', null)
    .execute();
  for (const row of rows) {
    using terminal = disposable(
      await driverFor(cloud, machine).openExec(
        { id: machineId, directory: join(cloud.directory, machineId) },
        row.id,
      ),
    );
    await settle(cloud, row, terminal.it);
  }
}

function exitOf(end: ProgramEnd, outputBytes: number): ExecExit {
  if (end.kind === 'exited') return { status: end.status, signal: null, outputBytes };
  if (end.kind === 'signaled') return { status: null, signal: end.signal, outputBytes };
  return { status: null, signal: null, reason: end.reason, outputBytes };
}

const reasons = ['cpu', 'wall', 'memory', 'output', 'cancelled'] as const;

function endOf(exit: ExecExit): ProgramEnd {
  if (exit.status !== null) return { kind: 'exited', status: exit.status };
  if (exit.signal !== null) return { kind: 'signaled', signal: exit.signal };
  return { kind: 'killed', reason: reasons.find((reason) => reason === exit.reason) ?? 'cancelled' };
}

function viewOf(row: ExecRow, outputBytes: unknown): Exec {
  return {
    id: row.id,
    machineId: row.machine_id,
    argv: [...row.argv],
    tty: row.tty,
    startedAt: (row.started_at ?? row.created_at).toISOString(),
    endedAt: row.ended_at?.toISOString() ?? null,
    end: row.exit ? endOf(row.exit) : null,
    outputBytes: typeof outputBytes === 'number' ? outputBytes : 0,
  };
}
