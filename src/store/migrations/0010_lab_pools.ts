/** Templates know how many copies the labs want to wait. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table labs
      -- how many machines of the lab shall wait, as its release says; null: as the lab says itself
      add column ready integer check (ready between 0 and 8);
    alter table vm_templates
      -- how many copies shall wait for the labs that use it, beside ready_target; null: no lab does
      add column pool_target integer check (pool_target between 0 and 1000);
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table vm_templates drop column pool_target;
    alter table labs drop column ready;
  `.execute(db);
}
