/** Networks and addresses, images, machines and what runs in them. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table blobs (
      hash text primary key,
      bytes bigint not null check (bytes >= 0),
      created_at timestamptz not null default now()
    );

    create table networks (
      id text primary key,
      name text not null constraint networks_name unique,
      bridge text not null constraint networks_bridge unique,
      cidr cidr not null,
      gateway inet not null,
      nat boolean not null default true,
      created_at timestamptz not null default now()
    );
    insert into networks (id, name, bridge, cidr, gateway)
      values ('n-000000000000', 'default', 'br0', '192.168.0.0/16', '192.168.0.1');

    create table images (
      id text primary key,
      name text not null constraint images_name unique,
      hash text,
      kind text not null check (kind in ('rootfs', 'disk')),
      bytes bigint,
      files integer,
      state text not null default 'building' check (state in ('building', 'ready', 'failed')),
      failure jsonb,
      recipe_hash text,
      source jsonb not null default '{}',
      created_at timestamptz not null default now(),
      constraint images_ready_has_hash check (state <> 'ready' or hash is not null)
    );

    create table machines (
      id text primary key,
      name text not null,
      owner_id text not null references users,
      course_id text references courses,
      lab_id text,
      submission_id text,
      driver text not null,
      image_id text references images,
      state text not null default 'stopped' check (state in ('stopped', 'running', 'paused', 'failed')),
      activity text,
      failure jsonb,
      gen bigint not null default 1,
      limits jsonb not null default '{}',
      labels jsonb not null default '{}',
      config jsonb not null default '{}',
      -- container user ids: 65536 of them from 1000000 + uid_slot * 65536; null once they are free again
      uid_slot integer constraint machines_uid_slot unique check (uid_slot >= 0),
      network_id text references networks,
      address inet,
      mac text,
      keeper jsonb,
      expires_at timestamptz,
      idle_stop_ms bigint check (idle_stop_ms > 0),
      started_at timestamptz,
      deleted_at timestamptz,
      created_at timestamptz not null default now()
    );
    create unique index machines_owner_name on machines (owner_id, name) where deleted_at is null;
    create index machines_course on machines (course_id) where deleted_at is null;
    create index machines_lab on machines (lab_id) where deleted_at is null;
    create index machines_submission on machines (submission_id) where submission_id is not null;
    create index machines_expiry on machines (expires_at) where deleted_at is null and expires_at is not null;

    create table addresses (
      network_id text not null references networks,
      address inet not null,
      machine_id text not null references machines,
      created_at timestamptz not null default now(),
      primary key (network_id, address),
      constraint addresses_machine unique (network_id, machine_id)
    );

    create table execs (
      id text primary key,
      machine_id text not null references machines,
      argv jsonb not null,
      tty boolean not null default false,
      requested_by text,
      started_at timestamptz,
      ended_at timestamptz,
      exit jsonb,
      created_at timestamptz not null default now()
    );
    create index execs_machine on execs (machine_id, created_at);
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop table execs; drop table addresses; drop table machines; drop table images; drop table networks;
    drop table blobs;
  `.execute(db);
}
