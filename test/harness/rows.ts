/**
 * Rows and files of a cloud that is down which stand for something that is not there, and which no job will put
 * right: the part of the census that is in the data directory itself.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import type { Store } from '#store/database.ts';

/** One line for each; empty when nothing dangles. */
export async function danglingRecords({ db }: Pick<Store, 'db'>, directory: string): Promise<string[]> {
  const { rows } = await sql<{ line: string }>`
    select format('job: %s (%s) is nobody’s, and running', id, kind) as line from jobs where state = 'running'
    union all
    select format('address: %s, of a machine that is gone', a.address) from addresses a
      where not exists (select from machines m where m.id = a.machine_id and m.deleted_at is null)
    union all
    select format('machine: %s (%s) is %s for ever', m.id, m.name, m.activity) from machines m
      where m.deleted_at is null and m.activity is not null and not exists (
        select from jobs j where j.ended_at is null and j.args->>'machineId' = m.id)
    union all
    select format('machine: %s grades for nobody', m.id) from machines m
      where m.deleted_at is null and m.submission_id is not null and not exists (
        select from jobs j where j.ended_at is null and j.args->>'submissionId' = m.submission_id)
    union all
    select format('image: %s is being built by nobody', name) from images
      where state = 'building' and not exists (
        select from jobs where ended_at is null and kind = 'image.build')
    order by 1`.execute(db);
  const known = await sql<{ id: string }>`
    select id from machines where deleted_at is null union all select id from vm_spares`.execute(db);
  const ids = new Set(known.rows.map(({ id }) => id));
  const kept = await readdir(join(directory, 'machines'));
  return [
    ...rows.map(({ line }) => line),
    ...kept
      .filter((name) => !ids.has(name))
      .map((name) => `files: machines/${name}, of a machine that is gone`),
  ];
}
