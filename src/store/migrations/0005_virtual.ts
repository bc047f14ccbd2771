/** Virtual machines: how they run, several networks, snapshots. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table networks
      add column dhcp boolean not null default true,
      -- who hears whom: machines of one owner, or all
      add column isolation text not null default 'owner' check (isolation in ('owner', 'open')),
      -- one bridge for all, or a subnet with two addresses for each machine
      add column layout text not null default 'bridge' check (layout in ('bridge', 'routed')),
      add column created_by text references users;
    -- its subnets are fixed, so there can be one only
    create unique index networks_routed on networks (layout) where layout = 'routed';

    -- whatever the network: an address, and the hardware address made of it, is one machine's
    create unique index addresses_address on addresses (address);

    alter table machines
      -- how it came to run; null while it does not
      add column runtime jsonb,
      -- running, and frozen for being idle until somebody wants something of it
      add column asleep boolean not null default false,
      add column idle_freeze_ms bigint check (idle_freeze_ms > 0),
      add column bytes_per_second bigint check (bytes_per_second > 0);
    create unique index machines_mac on machines (mac) where deleted_at is null;

    create table machine_snapshots (
      id text primary key,
      machine_id text not null references machines,
      name text not null,
      state text not null default 'creating' check (state in ('creating', 'ready', 'deleting')),
      bytes bigint check (bytes >= 0),
      created_at timestamptz not null default now(),
      constraint machine_snapshots_name unique (machine_id, name)
    );
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop table machine_snapshots;
    drop index machines_mac;
    alter table machines drop column runtime, drop column asleep, drop column idle_freeze_ms,
      drop column bytes_per_second;
    drop index addresses_address;
    drop index networks_routed;
    alter table networks drop column dhcp, drop column isolation, drop column layout, drop column created_by;
  `.execute(db);
}
