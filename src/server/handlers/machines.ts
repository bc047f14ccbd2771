/** Machines and what runs in them. Who may do what has been decided before (auth/access.ts). */
import { CarrelError } from '#base/errors.ts';
import { isId } from '#base/ids.ts';
import type { machineRoutes } from '#contract/routes/machines.ts';
import type { Machine } from '#contract/schemas/machines.ts';
import type { Views } from '#machines/list.ts';
import type { Machines } from '#machines/service.ts';
import type { Db } from '#store/schema.ts';
import type { Actor } from '#base/actor.ts';
import type { Call, HandlersFor } from '../handlers.ts';
import { answer, jsonAnswer } from '../http/answer.ts';
import { requireMatch } from '../http/etag.ts';
import { attachSocket } from '../streams.ts';
import { acceptedAnswer } from './job-view.ts';

type Routes = Omit<
  typeof machineRoutes,
  'listImages' | 'buildImage' | 'importImage' | 'exportImage' | 'getImage' | 'removeImage'
>;

/** A file travels through memory; the route's own limit is the same. */
async function readWhole(bytes: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of bytes) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const allowing = (ifMatch: string | undefined) => (gen: number) => requireMatch(ifMatch, gen, 'the machine');

export interface MachineServices {
  readonly db: Db;
  /** Reads need only the database, so they are answered while machines are not there. */
  readonly views: Views;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
}

export function machineHandlers({ db, views, machines }: MachineServices): HandlersFor<Routes> {
  const texts = new WeakMap<Machine, string>();
  /** Views are kept by generation (machines/list.ts), and so is their text: a list is mostly joining. */
  const textOf = (machine: Machine): string => {
    let text = texts.get(machine);
    if (text === undefined) texts.set(machine, (text = JSON.stringify(machine)));
    return text;
  };

  const verb =
    (name: 'start' | 'pause' | 'resume' | 'remove') =>
    async (
      { params }: { readonly params: { readonly machine: string } },
      { actor, requestId, ifMatch }: Call,
    ) => {
      const { machineId, job } = await (
        await machines()
      )[name](actor, params.machine, { requestId, allow: allowing(ifMatch) });
      return acceptedAnswer(db, job.id, machineId);
    };
  const stopping =
    (name: 'stop' | 'restart') =>
    async (
      {
        params,
        body,
      }: { readonly params: { readonly machine: string }; readonly body: { readonly graceMs: number } },
      { actor, requestId, ifMatch }: Call,
    ) => {
      const { machineId, job } = await (
        await machines()
      )[name](actor, params.machine, {
        requestId,
        graceMs: body.graceMs,
        allow: allowing(ifMatch),
      });
      return acceptedAnswer(db, job.id, machineId);
    };

  return {
    async listMachines({ query: { course, ...query } }, { actor }) {
      const courseId = course === undefined ? undefined : await courseIdOf(db, course);
      const { items, next } = await views.list(actor, { ...query, courseId });
      return jsonAnswer(`{"items":[${items.map(textOf).join(',')}],"next":${JSON.stringify(next)}}`);
    },

    async createMachine({ body }, { actor, requestId }) {
      const courseId = body.course === undefined ? null : await ownCourse(db, actor, body.course);
      const { machineId, job } = await (await machines()).create(actor, body, { requestId, courseId });
      return acceptedAnswer(db, job.id, machineId);
    },

    async getMachine({ params, query: { gen, wait } }) {
      const machine =
        gen === undefined || wait === 0
          ? await views.get(params.machine)
          : await (await machines()).waitForGen(params.machine, gen, wait * 1000);
      return answer(machine, { etag: machine.gen });
    },

    deleteMachine: verb('remove'),
    startMachine: verb('start'),
    pauseMachine: verb('pause'),
    resumeMachine: verb('resume'),
    stopMachine: stopping('stop'),
    restartMachine: stopping('restart'),

    async runInMachine({ params, body }, { signal }) {
      return (await machines()).run(params.machine, body, { signal });
    },

    async createExec({ params, body }, { actor }) {
      return (await machines()).createExec(actor, params.machine, body);
    },

    async getExec({ params }) {
      return (await machines()).getExec(params.machine, params.exec);
    },

    async getExecOutput({ params, query: { from } }) {
      return (await (await machines()).execOutput(params.machine, params.exec, { from })).bytes;
    },

    async attachExec({ params, query }, { signal }) {
      const stream = await (
        await machines()
      ).attach(params.machine, {
        exec: params.exec,
        ...attachOptions(query),
        signal,
      });
      return (socket) => attachSocket(socket, stream);
    },

    async attachConsole({ params, query }, { signal }) {
      const stream = await (await machines()).attach(params.machine, { ...attachOptions(query), signal });
      return (socket) => attachSocket(socket, stream);
    },

    async readFile({ params, query: { path } }) {
      return (await (await machines()).readFile(params.machine, path)).bytes;
    },

    async writeFile({ params, query: { path, mode }, bytes }) {
      const data = await readWhole(bytes);
      await (await machines()).writeFile(params.machine, path, data, { mode: Number.parseInt(mode, 8) });
      return undefined;
    },

    async inspectMachine({ params }) {
      return (await machines()).inspect(params.machine);
    },

    async getStats({ params }) {
      return (await machines()).stats(params.machine);
    },
  };
}

interface AttachQuery {
  readonly from?: number | undefined;
  readonly rows?: number | undefined;
  readonly columns?: number | undefined;
}

function attachOptions({ from, rows, columns }: AttachQuery) {
  return { from, ...(rows !== undefined && { rows }), ...(columns !== undefined && { columns }) };
}

/** A course to filter by; one that does not exist has no machines, and one cannot learn which do. */
async function courseIdOf(db: Db, course: string): Promise<string> {
  if (isId('course', course)) return course;
  const row = await db.selectFrom('courses').select('id').where('name', '=', course).executeTakeFirst();
  return row?.id ?? '';
}

/** The course that a new machine shall belong to: its maker must be a member, for its staff will see it. */
async function ownCourse(db: Db, actor: Actor, name: string): Promise<string> {
  const row = await db
    .selectFrom('courses')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'courses.id').on('members.user_id', '=', actor.id),
    )
    .select(['courses.id', 'members.role'])
    .where('courses.name', '=', name)
    .executeTakeFirst();
  if (row && (row.role !== null || actor.admin)) return row.id;
  throw new CarrelError('not_found', `course "${name}" does not exist`);
}
