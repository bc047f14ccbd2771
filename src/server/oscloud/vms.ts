/**
 * The VMs behind the OS-Cloud routes: ordinary machines of an account, with a number and a display name beside.
 * What is asked for is done through the service of machines; an answer comes when it is done.
 */
import { randomBytes } from 'node:crypto';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import type { Actor } from '#base/actor.ts';
import type { Logger } from '#base/log.ts';
import { formatSize } from '#base/units.ts';
import { type DriverName, newMachine } from '#contract/schemas/machines.ts';
import { revivedError } from '#jobs/types.ts';
import { waitForJob } from '#jobs/wait.ts';
import type { Machines } from '#machines/service.ts';
import type { Store } from '#store/database.ts';
import type { Job } from '#store/jobs.ts';
import { insertOsCloudMachine } from '#store/oscloud.ts';
import type { Tx } from '#store/schema.ts';
import { type Answer, errorAnswer, jsonAnswer, pythonJson } from './answers.ts';
import { machineNameOf } from './names.ts';
import { stateOf } from './state.ts';
import type { Ask, VmId, WantedVm } from './understand.ts';

/** What a VM starts from. */
export interface Template {
  /** The image's name. */
  readonly image: string;
  /** No disk may be shorter; 0: any may. */
  readonly minimumBytes: number;
}

export interface VmsOptions {
  readonly store: Pick<Store, 'db' | 'listen'>;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Pick<Machines, 'create' | 'start' | 'stop' | 'resume' | 'remove'>>;
  /** The template of a name; `not_found` if there is none. */
  readonly template: (name: string) => Promise<Template>;
  readonly driver?: DriverName;
  readonly log: Logger;
}

export interface Vms {
  /** Never throws: what goes wrong is answered. */
  answer(actor: Actor, ask: Ask): Promise<Answer>;
  /** What was remembered of lists does not hold any more. */
  forget(): void;
}

/** How long an answer is waited for; the job goes on behind it. */
const limitsMs = { create: 600_000, start: 300_000, stop: 120_000, remove: 60_000 } as const;
/** An orderly shutdown may take this long; then the power goes off. */
const graceMs = 10_000;
/** A list is believed at most this long, in case an announcement of a change is lost. */
const beliefMs = 1000;

interface Found {
  readonly id: string;
  readonly state: string;
}

export function openVms({ store, machines, template, driver = 'qemu', log }: VmsOptions): Vms {
  const { db } = store;
  const lists = new Map<string, { readonly answer: Answer; readonly until: number }>();
  let epoch = 0;

  const list = async ({ id }: Actor): Promise<Answer> => {
    const known = lists.get(id);
    if (known && performance.now() < known.until) return known.answer;
    const began = epoch;
    const rows = await db
      .selectFrom('oscloud_machines as o')
      .innerJoin('machines as m', 'm.id', 'o.machine_id')
      .select(['o.number as id', 'o.display_name as name'])
      .where('o.owner_id', '=', id)
      .where('m.deleted_at', 'is', null)
      .orderBy('o.number')
      .execute();
    const body = Buffer.from(`[${rows.map((row) => pythonJson({ ...row })).join(',')}]\n`);
    const answer: Answer = { status: 200, type: 'application/json', body };
    // a query that began before a change may not know of it
    if (began === epoch) lists.set(id, { answer, until: performance.now() + beliefMs });
    return answer;
  };

  const forget = (): void => {
    epoch += 1;
    lists.clear();
  };

  const rowOf = async (actor: Actor, { number }: VmId) =>
    number === undefined
      ? undefined
      : db
          .selectFrom('oscloud_machines as o')
          .innerJoin('machines as m', 'm.id', 'o.machine_id')
          .select([
            'o.number',
            'o.display_name',
            'o.os',
            'o.network',
            'm.id',
            'm.state',
            'm.activity',
            'm.keeper',
            'm.limits',
            'm.address',
          ])
          .where('o.owner_id', '=', actor.id)
          .where('o.number', '=', number)
          .where('m.deleted_at', 'is', null)
          .executeTakeFirst();

  const info = async (actor: Actor, id: VmId): Promise<Answer> => {
    const row = await rowOf(actor, id);
    if (!row) return errorAnswer(`vm "${id.text}" not found`);
    return jsonAnswer({
      disk_size: row.limits.disk ?? 0,
      id: row.number,
      ip: row.address,
      mem_size: row.limits.memory ?? 0,
      name: row.display_name,
      network: row.network,
      os: row.os,
      state: stateOf(row),
    });
  };

  const done = async (job: Job, ms: number): Promise<void> => {
    const ended = job.ended_at === null ? await waitForJob(store, job.id, { limitMs: ms }) : job;
    if (ended.state === 'done') return;
    if (ended.state === 'failed' && ended.error) throw revivedError(ended.error);
    if (ended.state === 'cancelled') throw new CarrelError('cancelled', 'it was cancelled');
    throw new CarrelError('deadline_exceeded', `it is not done after ${ms / 1000} seconds, and goes on`);
  };

  const change = async (actor: Actor, id: VmId, verb: 'start' | 'stop'): Promise<Answer> => {
    const row: Found | undefined = await rowOf(actor, id);
    if (!row) return errorAnswer(`vm '${id.text}' not found`);
    const service = await machines();
    const { job } =
      verb === 'stop'
        ? await service.stop(actor, row.id, { graceMs })
        : row.state === 'paused'
          ? await service.resume(actor, row.id)
          : await service.start(actor, row.id);
    await done(job, limitsMs[verb]);
    return jsonAnswer({ status: 'ok' });
  };

  /** Refused before any work: the checks of the original in its order, and those that it should have made. */
  const check = async (actor: Actor, wanted: WantedVm): Promise<Template> => {
    if (await isTaken(db, actor.id, wanted.name)) throw taken(wanted.name);
    const network = await db
      .selectFrom('networks')
      .select('id')
      .where('name', '=', wanted.network)
      .executeTakeFirst();
    if (!network) throw new CarrelError('not_found', `network "${wanted.network}" not found`);
    const found = await template(wanted.image).catch((error: unknown) => {
      if (!isCarrelError(error, 'not_found')) throw error;
      const why = error.hint?.startsWith('build it') ? `: ${error.hint}` : '';
      throw new CarrelError('not_found', `disk template "${wanted.image}" not found${why}`, { cause: error });
    });
    if (wanted.diskBytes < found.minimumBytes)
      throw new CarrelError(
        'validation_failed',
        `create disk failed: disk template "${wanted.image}" needs a disk of at least ${found.minimumBytes} bytes (${formatSize(found.minimumBytes)})`,
      );
    return found;
  };

  const create = async (actor: Actor, wanted: WantedVm): Promise<Answer> => {
    const { image } = await check(actor, wanted);
    const service = await machines();
    let number = 0;
    const alongside = async (tx: Tx, machineId: string): Promise<void> => {
      // one at a time: two of the same name would both find it free
      await tx.selectFrom('users').select('id').where('id', '=', actor.id).forUpdate().execute();
      if (await isTaken(tx, actor.id, wanted.name)) throw taken(wanted.name);
      number = await insertOsCloudMachine(tx, {
        owner_id: actor.id,
        machine_id: machineId,
        display_name: wanted.name,
        os: wanted.image,
        network: wanted.network,
      });
    };
    const asked = (name: string) =>
      service.create(actor, requestOf(name, image, driver, wanted), { alongside });
    const { machineId, job } = await asked(machineNameOf(wanted.name)).catch((error: unknown) => {
      // another display name has been narrowed to the same
      if (!isCarrelError(error, 'name_taken')) throw error;
      return asked(machineNameOf(wanted.name, randomBytes(3).toString('hex')));
    });
    forget();
    try {
      await done(job, limitsMs.create);
    } catch (error) {
      if (!isCarrelError(error, 'deadline_exceeded')) await removeHalfMade(machineId);
      throw error;
    }
    return jsonAnswer({ id: number, status: 'ok' });
  };

  const removeHalfMade = async (machineId: string): Promise<void> => {
    try {
      await done((await (await machines()).remove(null, machineId)).job, limitsMs.remove);
    } catch (error) {
      if (isCarrelError(error, 'not_found')) return;
      log.warn('a VM that could not be made is still there', { machine: machineId, error: messageOf(error) });
    } finally {
      forget();
    }
  };

  const act = async (actor: Actor, ask: Ask): Promise<Answer> => {
    switch (ask.kind) {
      case 'list':
        return list(actor);
      case 'create':
        return create(actor, ask.wanted);
      case 'info':
        return info(actor, ask.id);
      case 'start':
      case 'stop':
        return change(actor, ask.id, ask.kind);
      default:
        ask satisfies never;
        throw new CarrelError('internal', 'nothing is known of this request');
    }
  };

  return {
    forget,
    async answer(actor, ask) {
      try {
        return await act(actor, ask);
      } catch (error) {
        if (error instanceof CarrelError && error.code !== 'internal') return errorAnswer(error.message);
        log.error('an OS-Cloud request failed', { kind: ask.kind, error });
        return errorAnswer('the server made a mistake; its log has more');
      }
    },
  };
}

function taken(name: string): CarrelError {
  return new CarrelError('wrong_state', `vm "${name}" already exists`);
}

async function isTaken(db: Pick<Tx, 'selectFrom'>, ownerId: string, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('oscloud_machines as o')
    .innerJoin('machines as m', 'm.id', 'o.machine_id')
    .select('o.number')
    .where('o.owner_id', '=', ownerId)
    .where('o.display_name', '=', name)
    .where('m.deleted_at', 'is', null)
    .executeTakeFirst();
  return row !== undefined;
}

/** The request that the machine's own API would have got; what does not fit it is said in the words of this one. */
function requestOf(name: string, image: string, driver: DriverName, wanted: WantedVm) {
  const parsed = newMachine.safeParse({
    name,
    image,
    driver,
    network: wanted.network,
    limits: { memoryBytes: wanted.memoryBytes, diskBytes: wanted.diskBytes },
    sshKeys: wanted.sshKey === null ? [] : [wanted.sshKey],
  });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.at(-1);
  const what = field === 'memoryBytes' ? 'mem_size' : field === 'diskBytes' ? 'disk_size' : String(field);
  if (issue?.code === 'too_small' && what.endsWith('_size'))
    throw new CarrelError(
      'validation_failed',
      `Invalid ${what}: at least ${formatSize(Number(issue.minimum))}`,
    );
  throw new CarrelError('validation_failed', `Invalid ${what}: ${issue?.message ?? 'it does not fit'}`);
}
