/** Virtual machines that were booted ahead of time: parked templates, and clones of them that wait for an owner. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table vm_templates (
      id text primary key,
      -- what its parked state depends on: see machines/drivers/qemu/template/key.ts; null until that is known
      key text constraint vm_templates_key unique,
      driver text not null,
      image text not null,
      image_hash text not null,
      limits jsonb not null,
      -- made because somebody asked for it, and so not removed to make room
      kept boolean not null default false,
      state text not null default 'making' check (state in ('making', 'ready', 'failed', 'stale')),
      failure jsonb,
      bytes bigint check (bytes >= 0),
      -- how many clones shall wait for an owner
      ready_target integer not null default 0 check (ready_target between 0 and 32),
      requested_by text references users,
      last_used_at timestamptz,
      created_at timestamptz not null default now()
    );

    create table vm_spares (
      -- the id of the machine that it will be; it lives under it already
      id text primary key,
      template_id text not null references vm_templates on delete cascade,
      -- the one that boots to be parked, or a clone that waits
      purpose text not null check (purpose in ('park', 'spare')),
      state text not null default 'making' check (state in ('making', 'ready')),
      uid_slot integer not null constraint vm_spares_uid_slot unique check (uid_slot >= 0),
      created_at timestamptz not null default now()
    );
    create index vm_spares_template on vm_spares (template_id);

    -- host user ids that are somebody's
    create view uid_slots as
      select uid_slot from machines where uid_slot is not null union all select uid_slot from vm_spares;
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`drop view uid_slots; drop table vm_spares; drop table vm_templates`.execute(db);
}
