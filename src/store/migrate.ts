/** Brings a database to a version of the schema, up or down. */
import { CarrelError, messageOf } from '#base/errors.ts';
import { Migrator, NO_MIGRATIONS, type Migration } from 'kysely/migration';
import * as people from './migrations/0001_people.ts';
import * as jobs from './migrations/0002_jobs.ts';
import * as machines from './migrations/0003_machines.ts';
import * as classroom from './migrations/0004_classroom.ts';
import * as virtual from './migrations/0005_virtual.ts';
import * as reach from './migrations/0006_reach.ts';
import * as templates from './migrations/0007_templates.ts';
import * as parking from './migrations/0008_parking.ts';
import * as guests from './migrations/0009_guests.ts';
import * as labPools from './migrations/0010_lab_pools.ts';
import type { Db } from './schema.ts';

/** In order; the name of a released migration never changes. */
const migrations: Readonly<Record<string, Migration>> = {
  '0001_people': people,
  '0002_jobs': jobs,
  '0003_machines': machines,
  '0004_classroom': classroom,
  '0005_virtual': virtual,
  '0006_reach': reach,
  '0007_templates': templates,
  '0008_parking': parking,
  '0009_guests': guests,
  '0010_lab_pools': labPools,
};
const names = Object.keys(migrations);

/**
 * Runs migrations up or down to `target`: `latest`, or how many of them are to be in force (0 empties the
 * database). All in one transaction under an advisory lock, so several processes may call it at once.
 * Gives the names of those that ran, in order.
 */
export async function migrate(db: Db, target: 'latest' | number = 'latest'): Promise<readonly string[]> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const { error, results = [] } = await (target === 'latest'
    ? migrator.migrateToLatest()
    : migrator.migrateTo(nameOf(target)));
  if (error !== undefined) {
    const failed = results.find((result) => result.status === 'Error');
    throw new CarrelError(
      'internal',
      failed
        ? `migration ${failed.migrationName} failed: ${messageOf(error)}`
        : `the tables cannot be looked at: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
  return results.filter((result) => result.status === 'Success').map((result) => result.migrationName);
}

function nameOf(count: number): string | typeof NO_MIGRATIONS {
  if (count === 0) return NO_MIGRATIONS;
  const name = names[count - 1];
  if (name === undefined)
    throw new CarrelError(
      'invalid_request',
      `there is no schema version ${count}; the newest is ${names.length}`,
    );
  return name;
}
