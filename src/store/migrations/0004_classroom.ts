/** Labs and their versions, submissions, grades and regrades. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table labs (
      id text primary key,
      course_id text not null references courses,
      name text not null,
      title text not null,
      version integer not null default 1,
      due_at timestamptz,
      late_rule jsonb,
      released_at timestamptz,
      published_at timestamptz,
      etag integer not null default 1,
      created_at timestamptz not null default now(),
      constraint labs_name unique (course_id, name)
    );

    create table lab_versions (
      lab_id text not null references labs on delete cascade,
      version integer not null check (version >= 1),
      spec jsonb not null,
      tree_hash text not null,
      created_by text not null references users,
      created_at timestamptz not null default now(),
      primary key (lab_id, version)
    );

    create table submissions (
      id text primary key,
      lab_id text not null references labs,
      user_id text not null references users,
      attempt integer not null check (attempt >= 1),
      submitted_at timestamptz not null default now(),
      tree_hash text not null,
      files jsonb not null,
      bytes bigint not null check (bytes >= 0),
      constraint submissions_attempt unique (lab_id, user_id, attempt)
    );
    -- A submission is a fact: what was handed in and when never changes, whoever asks.
    create function submissions_are_facts() returns trigger language plpgsql as $$
      begin
        if new is distinct from old then
          raise exception 'submission % is a fact and cannot be changed', old.id using errcode = 'integrity_constraint_violation';
        end if;
        return new;
      end $$;
    create trigger submissions_are_facts before update on submissions
      for each row execute function submissions_are_facts();

    create table regrades (
      id text primary key,
      lab_id text not null references labs,
      requested_by text not null references users,
      lab_version integer not null,
      job_id text,
      scope jsonb not null default '{}',
      undone_at timestamptz,
      created_at timestamptz not null default now()
    );
    create index regrades_lab on regrades (lab_id, created_at);

    -- One job, one grade: a job replayed after a crash finds the grade it made.
    create table grades (
      id text primary key,
      submission_id text not null references submissions,
      lab_version integer not null,
      job_id text constraint grades_job unique,
      regrade_id text references regrades,
      state text not null check (state in ('graded', 'error')),
      points numeric,
      max_points numeric not null,
      checks jsonb not null,
      graded_at timestamptz not null default now(),
      current boolean not null,
      superseded_by text references grades deferrable initially deferred,
      constraint grades_graded_has_points check (state = 'error' or points is not null)
    );
    create unique index grades_current on grades (submission_id) where current;
    create index grades_submission on grades (submission_id, graded_at);
    create index grades_regrade on grades (regrade_id) where regrade_id is not null;
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop table grades; drop table regrades; drop table submissions; drop function submissions_are_facts;
    drop table lab_versions; drop table labs;
  `.execute(db);
}
