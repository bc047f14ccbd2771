/** How machines are reached and filled: port forwards, scripts run inside, and the numbers of the OS-Cloud routes. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table machine_forwards (
      id text primary key,
      machine_id text not null references machines,
      host text not null,
      port integer not null check (port between 1024 and 65535),
      machine_port integer not null check (machine_port between 1 and 65535),
      created_by text references users,
      created_at timestamptz not null default now(),
      constraint machine_forwards_endpoint unique (host, port)
    );
    create index machine_forwards_machine on machine_forwards (machine_id);

    create table machine_scripts (
      id text primary key,
      machine_id text not null references machines,
      -- run by itself when the machine is ready for the first time
      starter boolean not null,
      limit_ms integer not null check (limit_ms > 0),
      state text not null check (state in ('waiting', 'running', 'done', 'interrupted', 'cancelled')),
      failure jsonb,
      job_id text,
      requested_by text references users,
      created_at timestamptz not null default now(),
      started_at timestamptz,
      ended_at timestamptz
    );
    create index machine_scripts_machine on machine_scripts (machine_id, created_at);

    create table machine_script_lines (
      script_id text not null references machine_scripts on delete cascade,
      number integer not null check (number > 0),
      line text not null,
      started_at timestamptz,
      ended_at timestamptz,
      wall_ms double precision,
      exit jsonb,
      -- why there is no exit: it could not be run, or nobody saw its end
      error text,
      stdout text not null default '',
      stderr text not null default '',
      stdout_bytes integer not null default 0,
      stderr_bytes integer not null default 0,
      primary key (script_id, number)
    );

    create table oscloud_machines (
      owner_id text not null references users,
      -- counts from 1 for each account; never given twice
      number integer not null check (number > 0),
      machine_id text not null references machines,
      display_name text not null,
      os text not null,
      network text not null,
      created_at timestamptz not null default now(),
      primary key (owner_id, number)
    );
    create unique index oscloud_machines_machine on oscloud_machines (machine_id);
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop table oscloud_machines; drop table machine_script_lines; drop table machine_scripts;
    drop table machine_forwards;
  `.execute(db);
}
