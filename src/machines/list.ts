/**
 * Machines as they are shown. The list is asked for more often than anything else, so it reads only ids and
 * generations, and takes the rest from what it has shown before: `gen` moves with every change, so a view of
 * the same generation is the same view. What is not known yet comes in a second query.
 */
import { sql } from 'kysely';
import { CarrelError } from '#base/errors.ts';
import type { Machine, MachineOrder, MachineState } from '#contract/schemas/machines.ts';
import { decodeCursor, encodeCursor } from '#contract/page.ts';
import type { Db } from '#store/schema.ts';
import type { Actor } from '#base/actor.ts';
import { activityOf, driverOf, limitsOf } from './rows.ts';

export interface ListQuery {
  readonly state?: MachineState | undefined;
  /** Owner's name. */
  readonly owner?: string | undefined;
  readonly courseId?: string | undefined;
  /** `key=value`, or `key` for any value. */
  readonly label?: string | undefined;
  readonly sort?: MachineOrder | undefined;
  readonly cursor?: string | undefined;
  readonly limit?: number | undefined;
}

export interface Page {
  readonly items: readonly Machine[];
  readonly next: string | null;
}

export interface Views {
  list(actor: Actor, query?: ListQuery): Promise<Page>;
  /** By id, or by the name of one of the actor's own; `not_found` for what he may not see. */
  find(actor: Actor, reference: string): Promise<Machine>;
  get(id: string): Promise<Machine>;
}

/** Views kept in memory; each is about 1 KiB. */
const maxKept = 5000;

interface Kept {
  readonly gen: number;
  readonly view: Machine;
}

export function openViews(db: Db): Views {
  const kept = new Map<string, Kept>();
  const once = createSharing<Page>();

  const views = async (ids: readonly { readonly id: string; readonly gen: number }[]): Promise<Machine[]> => {
    const fresh = new Map<string, Machine>();
    const unknown = ids.filter(({ id, gen }) => kept.get(id)?.gen !== gen).map(({ id }) => id);
    if (unknown.length > 0)
      for (const view of await selectViews(db, unknown)) {
        fresh.set(view.id, view);
        kept.delete(view.id);
        kept.set(view.id, { gen: view.gen, view });
      }
    for (const id of kept.keys()) {
      if (kept.size <= maxKept) break;
      kept.delete(id);
    }
    return ids.flatMap(({ id }) => fresh.get(id) ?? kept.get(id)?.view ?? []);
  };

  return {
    list(actor, query = {}) {
      const key = JSON.stringify([actor.id, actor.admin, query]);
      return once(key, async () => {
        const limit = query.limit ?? 100;
        const rows = await ordered(visible(db, actor, query), query)
          .limit(limit + 1)
          .execute();
        const page = rows.slice(0, limit);
        const last = rows.length > limit ? page.at(-1) : undefined;
        return { items: await views(page), next: last ? encodeCursor(...keyOf(last)) : null };
      });
    },
    async find(actor, reference) {
      const rows = await visible(db, actor, {})
        .where((eb) =>
          eb.or([
            eb('m.id', '=', reference),
            eb.and([eb('m.owner_id', '=', actor.id), eb('m.name', '=', reference)]),
          ]),
        )
        .limit(1)
        .execute();
      const [view] = await views(rows);
      if (view) return view;
      throw new CarrelError('not_found', `there is no machine ${JSON.stringify(reference.slice(0, 64))}`, {
        hint: 'see yours with: carrel machine ls',
      });
    },
    async get(id) {
      const [view] = await selectViews(db, [id]);
      if (!view) throw new CarrelError('not_found', `machine ${id} does not exist`);
      return view;
    },
  };
}

/** Ids and generations of what the actor may see: his own, those of courses he staffs, all for administrators. */
export function visible(db: Db, actor: Actor, { state, owner, courseId, label }: ListQuery) {
  let query = db.selectFrom('machines as m').select(['m.id', 'm.gen']).where('m.deleted_at', 'is', null);
  if (!actor.admin)
    query = query
      // a machine that grades holds what its student must not see
      .where((eb) =>
        eb.or([
          eb.and([eb('m.owner_id', '=', actor.id), eb('m.submission_id', 'is', null)]),
          eb(
            'm.course_id',
            'in',
            eb
              .selectFrom('members')
              .select('course_id')
              .where('user_id', '=', actor.id)
              .where('role', 'in', ['instructor', 'ta']),
          ),
        ]),
      );
  if (state !== undefined) query = query.where('m.state', '=', state);
  if (courseId !== undefined) query = query.where('m.course_id', '=', courseId);
  if (owner !== undefined)
    query = query.where('m.owner_id', 'in', (eb) =>
      eb.selectFrom('users').select('id').where('name', '=', owner),
    );
  if (label !== undefined) {
    const [key = '', value] = label.split(/=(.*)/s);
    query =
      value === undefined
        ? query.where(sql<boolean>`m.labels ? ${key}`)
        : query.where(sql<boolean>`m.labels ->> ${key} = ${value}`);
  }
  return query;
}

const sortKeys = {
  name: sql<string>`m.name`,
  // exact to the microsecond, which a Date is not, and in an order that texts have too
  created: sql<string>`to_char(m.created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')`,
} as const;

interface Ordered {
  readonly id: string;
  /** What it is sorted by before its id. */
  readonly key: string | null;
}

const keyOf = ({ id, key }: Ordered): readonly string[] => (key === null ? [id] : [key, id]);

/** In the order that is asked for, from behind the cursor on. */
function ordered(query: ReturnType<typeof visible>, { sort, cursor }: ListQuery) {
  if (sort === undefined) {
    const after = cursor === undefined ? undefined : decodeCursor(cursor, 1)[0];
    return query
      .select(sql<string | null>`null`.as('key'))
      .$if(after !== undefined, (rows) => rows.where('m.id', '>', after ?? ''))
      .orderBy('m.id');
  }
  const down = sort.startsWith('-');
  const key = sortKeys[sort === 'name' || sort === '-name' ? 'name' : 'created'];
  // names are ASCII: byte by byte, whatever the collation of the database
  const sorted = sql<string>`${key} collate "C"`;
  const [after, id] = cursor === undefined ? [] : decodeCursor(cursor, 2);
  const direction = down ? 'desc' : 'asc';
  return query
    .select(sql<string | null>`${key}`.as('key'))
    .$if(after !== undefined, (rows) =>
      rows.where(sql<boolean>`(${sorted}, m.id) ${sql.raw(down ? '<' : '>')} (${after}, ${id})`),
    )
    .orderBy(sorted, direction)
    .orderBy('m.id', direction);
}

async function selectViews(db: Db, ids: readonly string[]): Promise<Machine[]> {
  const rows = await db
    .selectFrom('machines as m')
    .innerJoin('users as u', 'u.id', 'm.owner_id')
    .leftJoin('networks as n', 'n.id', 'm.network_id')
    .select([
      'm.id',
      'm.name',
      'u.name as owner',
      'm.course_id',
      'm.lab_id',
      'm.driver',
      'm.state',
      'm.activity',
      'm.failure',
      'm.gen',
      'm.asleep',
      'm.runtime',
      'n.name as network',
      'm.address',
      'm.mac',
      'm.limits',
      'm.bytes_per_second',
      'm.idle_freeze_ms',
      'm.labels',
      'm.created_at',
      'm.expires_at',
      sql<string>`coalesce(m.config->>'image', '')`.as('image'),
    ])
    .where('m.deleted_at', 'is', null)
    .where('m.id', 'in', ids)
    .execute();
  return rows.map((row) => ({
    id: row.id,
    name: row.name,
    owner: row.owner,
    courseId: row.course_id,
    labId: row.lab_id,
    driver: driverOf(row),
    image: row.image,
    state: row.state,
    activity: activityOf(row),
    failure: row.failure && {
      code: row.failure.code,
      message: row.failure.message,
      hint: row.failure.hint ?? null,
      at: row.failure.at,
    },
    gen: row.gen,
    asleep: row.asleep,
    runtime: row.runtime,
    network: row.network,
    address: row.address,
    mac: row.mac,
    limits: limitsOf(row),
    bytesPerSecond: row.bytes_per_second,
    idleFreezeSeconds: row.idle_freeze_ms === null ? null : row.idle_freeze_ms / 1000,
    labels: row.labels,
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at?.toISOString() ?? null,
  }));
}

/**
 * Answers equal questions with one query, but only those that were asked before it began: whoever has seen a
 * change acknowledged finds it in the next list.
 */
function createSharing<T>(): (key: string, work: () => Promise<T>) => Promise<T> {
  const waiting = new Map<string, Promise<T>>();
  const running = new Map<string, Promise<unknown>>();
  return (key, work) => {
    const joined = waiting.get(key);
    if (joined) return joined;
    const before = running.get(key) ?? Promise.resolve();
    const mine = before.then(() => {
      waiting.delete(key);
      return work();
    });
    waiting.set(key, mine);
    const settled = mine.then(
      () => undefined,
      () => undefined,
    );
    running.set(key, settled);
    void settled.then(() => {
      if (running.get(key) === settled) running.delete(key);
    });
    return mine;
  };
}
