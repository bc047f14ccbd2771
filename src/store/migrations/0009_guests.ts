/** Images of a third kind: guests of our own hypervisor. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table images drop constraint images_kind_check,
      add constraint images_kind_check check (kind in ('rootfs', 'disk', 'guest'))
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    update machines set image_id = null where image_id in (select id from images where kind = 'guest');
    delete from images where kind = 'guest';
    alter table images drop constraint images_kind_check,
      add constraint images_kind_check check (kind in ('rootfs', 'disk'))
  `.execute(db);
}
