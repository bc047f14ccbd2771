/** Durable work, the event sequence (which is the audit trail), and replayed requests. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    -- The state machine is described in src/jobs/types.ts. attempt is the fencing token: it only grows.
    create table jobs (
      id text primary key,
      seq bigint generated always as identity,
      kind text not null,
      state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
      args jsonb not null,
      result jsonb,
      error jsonb,
      priority integer not null default 0,
      run_after timestamptz not null default now(),
      dedupe_key text,
      parent_id text references jobs on delete set null,
      requester text,
      request_id text,
      resources jsonb not null default '[]',
      attempt integer not null default 0,
      failures integer not null default 0,
      losses integer not null default 0,
      max_attempts integer not null default 3 check (max_attempts >= 1),
      owner text,
      lease_until timestamptz,
      cancel_requested_at timestamptz,
      step text,
      steps jsonb not null default '[]',
      progress jsonb,
      checkpoint jsonb,
      started_at timestamptz,
      ended_at timestamptz,
      created_at timestamptz not null default now(),
      constraint jobs_running_is_leased check ((state = 'running') = (owner is not null and lease_until is not null)),
      constraint jobs_ended_has_instant check ((state in ('done', 'failed', 'cancelled')) = (ended_at is not null)),
      constraint jobs_failed_has_error check (state <> 'failed' or error is not null)
    );
    create index jobs_queued on jobs (priority desc, seq) where state = 'queued';
    create index jobs_leased on jobs (lease_until) where state = 'running';
    create unique index jobs_dedupe on jobs (dedupe_key) where state in ('queued', 'running');
    create index jobs_parent on jobs (parent_id) where parent_id is not null;
    create index jobs_seq on jobs (seq);
    create index jobs_ended on jobs (ended_at) where ended_at is not null;
    -- Lease renewals rewrite rows all the time: room on the page keeps them off the indexes.
    alter table jobs set (fillfactor = 70);

    create table job_logs (
      job_id text not null references jobs on delete cascade,
      seq bigint generated always as identity,
      at timestamptz not null default now(),
      line text not null,
      primary key (job_id, seq)
    );

    -- Hints only: the rows are the truth, and every listener polls too.
    create function jobs_notify_queued() returns trigger language plpgsql as $$
      begin perform pg_notify('carrel_jobs_queued', ''); return null; end $$;
    create trigger jobs_notify_queued after insert on jobs
      for each statement execute function jobs_notify_queued();
    create function jobs_notify_ended() returns trigger language plpgsql as $$
      begin perform pg_notify('carrel_jobs_ended', new.id); return null; end $$;
    create trigger jobs_notify_ended after update of state on jobs
      for each row when (new.ended_at is not null and old.ended_at is null) execute function jobs_notify_ended();

    -- Readers page by seq, so a lower seq must never become visible after a higher one. It is therefore given
    -- at commit, under a lock held until the commit is done: at that point a transaction waits for nothing
    -- else, so the lock cannot be part of a deadlock.
    create table events (
      id bigint generated always as identity primary key,
      seq bigint constraint events_seq unique,
      at timestamptz not null default now(),
      kind text not null,
      subject text,
      course_id text,
      owner_id text,
      actor text,
      payload jsonb not null default '{}'
    );
    create sequence events_next;
    create function events_assign_seq() returns trigger language plpgsql as $$
      begin
        perform pg_advisory_xact_lock(1128354418);
        update events set seq = nextval('events_next') where id = new.id;
        perform pg_notify('carrel_events', '');
        return null;
      end $$;
    create constraint trigger events_assign_seq after insert on events
      deferrable initially deferred for each row execute function events_assign_seq();

    create table idempotency (
      user_id text not null,
      key text not null,
      body_hash text not null,
      status integer,
      response jsonb,
      job_id text,
      expires_at timestamptz not null default now() + interval '24 hours',
      created_at timestamptz not null default now(),
      primary key (user_id, key)
    );
    create index idempotency_expiry on idempotency (expires_at);
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop table idempotency; drop table events; drop sequence events_next; drop table job_logs; drop table jobs;
    drop function events_assign_seq; drop function jobs_notify_ended; drop function jobs_notify_queued;
  `.execute(db);
}
