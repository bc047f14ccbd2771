/** When a template was asked for is looked up every few seconds, among all events of a year. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index events_template_making on events ((payload->>'key'), at) where kind = 'template.making'`.execute(
    db,
  );
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`drop index events_template_making`.execute(db);
}
