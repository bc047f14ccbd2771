/**
 * Who may do what: the one place that decides. A route's `access` word and the objects that its path names go
 * in; either the path's parameters come out as ids, or an error.
 *
 * What the caller may not know of does not exist for him (`not_found`, the same sentence as for a wrong id);
 * what he may see but not touch is `forbidden`. Administrators may do everything to what exists.
 */
import { CarrelError } from '#base/errors.ts';
import { isId } from '#base/ids.ts';
import type { Access, Route } from '#contract/route.ts';
import type { Role } from '#contract/schemas/people.ts';
import type { Db } from '#store/schema.ts';
import { selectOptionalSnapshot } from '#store/snapshots.ts';
import type { Actor } from '#base/actor.ts';
import { courseOfResources } from './resources.ts';

export interface Granted {
  /** The path's parameters, names replaced by ids. */
  readonly params: Readonly<Record<string, string>>;
  readonly role: Role | null;
  readonly courseId: string | null;
}

type Params = Readonly<Record<string, string>>;

/** What a look at an object gives: what the caller is to it. */
interface Relation {
  readonly params: Params;
  readonly courseId: string | null;
  readonly role: Role | null;
  /** He made it, or it is his. */
  readonly own: boolean;
}

function notFound(what: string, text: string): CarrelError {
  return new CarrelError('not_found', `${what} "${text.slice(0, 80)}" does not exist`);
}

function forbidden(what: string): CarrelError {
  return new CarrelError('forbidden', what);
}

export function isStaff(role: Role | null): boolean {
  return role === 'instructor' || role === 'ta';
}

/** Decides. Throws `forbidden` or `not_found`; anonymous callers have been turned away before (http/app.ts). */
export async function authorize(db: Db, actor: Actor, route: Route, params: Params): Promise<Granted> {
  const { access } = route;
  if (access === 'public') return { params, role: null, courseId: null };
  if (access === 'admin' && !actor.admin) throw forbidden('this is for administrators');
  if (access === 'user' || access === 'admin') {
    await checkToken(db, actor, params);
    return { params, role: null, courseId: null };
  }
  const relation = await looks[access](db, actor, params);
  if (!actor.admin) judge(access, relation, params);
  await checkInner(db, relation.params);
  return {
    params: await resolveSnapshot(db, relation.params),
    role: relation.role,
    courseId: relation.courseId,
  };
}

type ObjectAccess = Exclude<Access, 'public' | 'user' | 'admin'>;

type Look = (db: Db, actor: Actor, params: Params) => Promise<Relation>;

const courseOrLab: Look = (db, actor, params) =>
  params['lab'] === undefined ? course(db, actor, params) : lab(db, actor, params);

/** How each word finds its object. */
const looks: Readonly<Record<ObjectAccess, Look>> = {
  'course:member': courseOrLab,
  'course:staff': courseOrLab,
  'course:instructor': courseOrLab,
  'submission:read': submission,
  'submission:staff': submission,
  'machine:use': machine,
  'job:read': job,
};

function judge(access: ObjectAccess, { role, own }: Relation, params: Params): void {
  switch (access) {
    case 'course:member':
    case 'course:staff':
    case 'course:instructor': {
      if (role === null)
        throw params['lab'] === undefined
          ? notFound('course', params['course'] ?? '')
          : notFound('lab', params['lab']);
      if (access === 'course:staff' && !isStaff(role)) throw forbidden('this is for the staff of the course');
      if (access === 'course:instructor' && role !== 'instructor')
        throw forbidden('this is for the instructors of the course');
      return;
    }
    case 'submission:read':
    case 'submission:staff':
      if (!own && role === null) throw notFound('submission', params['submission'] ?? '');
      if (!own && !isStaff(role)) throw forbidden('this is somebody else’s submission');
      if (access === 'submission:staff' && !isStaff(role))
        throw forbidden('this is for the staff of the course');
      return;
    case 'machine:use':
      if (!own && !isStaff(role)) throw notFound('machine', params['machine'] ?? '');
      return;
    case 'job:read':
      if (!own && !isStaff(role)) throw notFound('job', params['job'] ?? '');
  }
}

async function course(db: Db, actor: Actor, params: Params): Promise<Relation> {
  const key = params['course'] ?? '';
  const row = await db
    .selectFrom('courses')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'courses.id').on('members.user_id', '=', actor.id),
    )
    .select(['courses.id', 'members.role'])
    .where(isId('course', key) ? 'courses.id' : 'courses.name', '=', key)
    .executeTakeFirst();
  if (!row) throw notFound('course', key);
  return { params: { ...params, course: row.id }, courseId: row.id, role: row.role, own: false };
}

/** A lab that is not released does not exist for students. */
async function lab(db: Db, actor: Actor, params: Params): Promise<Relation> {
  const key = params['lab'] ?? '';
  const row = await db
    .selectFrom('labs')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'labs.course_id').on('members.user_id', '=', actor.id),
    )
    .select(['labs.id', 'labs.course_id', 'labs.released_at', 'members.role'])
    .where('labs.id', '=', key)
    .executeTakeFirst();
  if (!row) throw notFound('lab', key);
  const seen = actor.admin || isStaff(row.role) || row.released_at !== null;
  if (!seen) throw notFound('lab', key);
  return { params, courseId: row.course_id, role: row.role, own: false };
}

async function submission(db: Db, actor: Actor, params: Params): Promise<Relation> {
  const key = params['submission'] ?? '';
  const row = await db
    .selectFrom('submissions')
    .innerJoin('labs', 'labs.id', 'submissions.lab_id')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'labs.course_id').on('members.user_id', '=', actor.id),
    )
    .select(['submissions.user_id', 'labs.course_id', 'members.role'])
    .where('submissions.id', '=', key)
    .executeTakeFirst();
  if (!row) throw notFound('submission', key);
  return { params, courseId: row.course_id, role: row.role, own: row.user_id === actor.id };
}

/** By id, or by the name of one of the caller's own. */
/** Of machines with one name, as many as a hint may list. */
const maxNamesakes = 10;

async function machine(db: Db, actor: Actor, params: Params): Promise<Relation> {
  const key = params['machine'] ?? '';
  const rows = db
    .selectFrom('machines')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'machines.course_id').on('members.user_id', '=', actor.id),
    )
    .select([
      'machines.id',
      'machines.owner_id',
      'machines.submission_id',
      'machines.course_id',
      'members.role',
    ])
    .where('machines.deleted_at', 'is', null);
  const named = rows.where('machines.name', '=', key);
  const own = await (
    isId('machine', key)
      ? rows.where('machines.id', '=', key)
      : named.where('machines.owner_id', '=', actor.id)
  ).executeTakeFirst();
  // An administrator's list has everybody's machines, so their names lead somewhere, too: his own goes first.
  const [row, ...others] = own ? [own] : actor.admin ? await named.limit(maxNamesakes).execute() : [];
  if (!row) throw notFound('machine', key);
  if (others.length > 0)
    throw new CarrelError('invalid_request', `more than one machine is called "${key.slice(0, 80)}"`, {
      hint: `say which one by its id: ${[row, ...others].map(({ id }) => id).join(', ')}`,
    });
  return {
    params: { ...params, machine: row.id },
    courseId: row.course_id,
    role: row.role,
    // A machine that grades holds what its student must not see.
    own: row.owner_id === actor.id && row.submission_id === null,
  };
}

async function job(db: Db, actor: Actor, params: Params): Promise<Relation> {
  const key = params['job'] ?? '';
  const row = await db
    .selectFrom('jobs')
    .select(['requester', 'resources'])
    .where('id', '=', key)
    .executeTakeFirst();
  if (!row) throw notFound('job', key);
  const own = row.requester === actor.id;
  if (actor.admin) return { params, courseId: null, role: null, own };
  // One's own too: what a job says of hidden checks is for the staff (handlers/job-view.ts).
  const { courseId, role } = await courseOfResources(db, actor, row.resources);
  return { params, courseId, role, own };
}

/** A token is its owner's business alone; administrators may end any. */
async function checkToken(db: Db, actor: Actor, params: Params): Promise<void> {
  const key = params['token'];
  if (key === undefined) return;
  const row = await db.selectFrom('tokens').select('user_id').where('id', '=', key).executeTakeFirst();
  if (!row || (row.user_id !== actor.id && !actor.admin)) throw notFound('token', key);
}

/** A machine's snapshots have names of their own, like the machines. */
async function resolveSnapshot(db: Db, params: Params): Promise<Params> {
  const { machine, snapshot } = params;
  if (machine === undefined || snapshot === undefined) return params;
  const row = await selectOptionalSnapshot(db, machine, snapshot);
  if (!row) throw notFound('snapshot', snapshot);
  return { ...params, snapshot: row.id };
}

/** The second object of a path must belong to the first: no foreign exec through one's own machine. */
async function checkInner(db: Db, params: Params): Promise<void> {
  const { exec, forward, script, regrade, machine, lab } = params;
  if (exec !== undefined && machine !== undefined) {
    const row = await db.selectFrom('execs').select('machine_id').where('id', '=', exec).executeTakeFirst();
    if (row?.machine_id !== machine) throw notFound('exec', exec);
  }
  for (const [key, table] of [
    [forward, 'machine_forwards'],
    [script, 'machine_scripts'],
  ] as const)
    if (key !== undefined && machine !== undefined) {
      const row = await db.selectFrom(table).select('machine_id').where('id', '=', key).executeTakeFirst();
      if (row?.machine_id !== machine) throw notFound(table.slice('machine_'.length, -1), key);
    }
  if (regrade !== undefined && lab !== undefined) {
    const row = await db.selectFrom('regrades').select('lab_id').where('id', '=', regrade).executeTakeFirst();
    if (row?.lab_id !== lab) throw notFound('regrade', regrade);
  }
}
