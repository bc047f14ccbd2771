/**
 * What one account may have at a time, in all its machines together. Every create counts under a lock of the
 * owner's row, so that parallel requests cannot overshoot. Machines that grade a submission are not counted:
 * they are the cloud's own, and their number is bounded by the workers.
 */
import { availableParallelism, totalmem } from 'node:os';
import { sql } from 'kysely';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Limits } from '#contract/schemas/machines.ts';
import type { Tx } from '#store/schema.ts';

export interface Quota {
  readonly machines: number;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly processes: number;
  readonly diskBytes: number;
}

/** Enough for a lab with a few machines; a class of 30 on one server is the case in mind. */
export const userQuota: Quota = {
  machines: 10,
  cpus: 16,
  memoryBytes: 16 * 2 ** 30,
  processes: 20_000,
  diskBytes: 64 * 2 ** 30,
};

/** Administrators run demonstrations and load tests: they are only kept from exhausting the address range. */
export const adminQuota: Quota = {
  machines: 5000,
  cpus: 100_000,
  memoryBytes: 2 ** 50,
  processes: 10_000_000,
  diskBytes: 2 ** 50,
};

/** The account that OS-Cloud machines belong to where everybody on the host may make them. */
export const serviceAccount = 'oscloud';

/**
 * What this host can bear: guests touch a part of their memory and compute now and then, so more of both may be
 * promised than there is. Disks grow as they are written.
 */
function hostQuota(): Quota {
  return {
    machines: 250,
    cpus: 32 * availableParallelism(),
    memoryBytes: 4 * totalmem(),
    processes: 1_000_000,
    diskBytes: 2 ** 44,
  };
}

function quotaOf({ name, admin }: { readonly name: string; readonly admin: boolean }): Quota {
  if (admin) return adminQuota;
  return name === serviceAccount ? hostQuota() : userQuota;
}

/** Refuses with `quota_exceeded` what the owner may not have in addition. Locks the owner's row. */
export async function requireQuota(tx: Tx, ownerId: string, wanted: Limits): Promise<void> {
  const owner = await tx
    .selectFrom('users')
    .select(['name', 'admin'])
    .where('id', '=', ownerId)
    .forUpdate()
    .executeTakeFirst();
  if (!owner) throw new CarrelError('not_found', `user ${ownerId} does not exist`);
  const quota = quotaOf(owner);
  const used = await tx
    .selectFrom('machines')
    .select(({ fn }) => [
      fn.countAll<number>().as('machines'),
      sql<number>`coalesce(sum((limits->>'cpu')::float8), 0)::float8`.as('cpus'),
      sql<number>`coalesce(sum((limits->>'memory')::float8), 0)::float8`.as('memoryBytes'),
      sql<number>`coalesce(sum((limits->>'pids')::float8), 0)::float8`.as('processes'),
      sql<number>`coalesce(sum((limits->>'disk')::float8), 0)::float8`.as('diskBytes'),
    ])
    .where('owner_id', '=', ownerId)
    .where('submission_id', 'is', null)
    .where('deleted_at', 'is', null)
    .executeTakeFirstOrThrow();
  refuseBeyond(owner.name, quota, used, { machines: 1, ...wanted });
}

const units: Readonly<Record<keyof Quota, { what: string; show: (value: number) => string }>> = {
  machines: { what: 'machines', show: String },
  cpus: { what: 'processors', show: String },
  memoryBytes: { what: 'of memory', show: formatSize },
  processes: { what: 'processes', show: String },
  diskBytes: { what: 'of disk', show: formatSize },
};

/** Pure part: the first limit that would be exceeded is named with all its figures. */
export function refuseBeyond(owner: string, quota: Quota, used: Quota, wanted: Quota): void {
  for (const [key, { what, show }] of Object.entries(units)) {
    if (!isKey(key)) continue;
    const sum = used[key] + wanted[key];
    if (sum <= quota[key]) continue;
    throw new CarrelError(
      'quota_exceeded',
      `${owner} may have ${show(quota[key])} ${what}: ${show(used[key])} are in use, ${show(wanted[key])} more are asked for`,
      {
        hint: 'delete a machine, or ask for less',
        details: { quota: key, limit: quota[key], used: used[key] },
      },
    );
  }
}

function isKey(key: string): key is keyof Quota {
  return key in units;
}
