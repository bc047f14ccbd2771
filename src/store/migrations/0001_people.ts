/** Users and their tokens; courses and who is in them. */
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table users (
      id text primary key,
      name text not null,
      admin boolean not null default false,
      disabled_at timestamptz,
      created_at timestamptz not null default now()
    );
    create unique index users_name on users (lower(name));

    -- Only the SHA-256 of a token's secret is kept.
    create table tokens (
      id text primary key,
      user_id text not null references users on delete cascade,
      hash bytea not null constraint tokens_hash unique check (octet_length(hash) = 32),
      label text not null default '',
      expires_at timestamptz,
      last_used_at timestamptz,
      revoked_at timestamptz,
      created_at timestamptz not null default now()
    );
    create index tokens_user on tokens (user_id);

    create table courses (
      id text primary key,
      name text not null constraint courses_name unique,
      title text not null,
      created_by text not null references users,
      etag integer not null default 1,
      created_at timestamptz not null default now()
    );

    create table members (
      course_id text not null references courses on delete cascade,
      user_id text not null references users on delete cascade,
      role text not null check (role in ('instructor', 'ta', 'student')),
      section text,
      created_at timestamptz not null default now(),
      primary key (course_id, user_id)
    );
    create index members_user on members (user_id);
  `.execute(db);
}

export async function down(db: Kysely<unknown>): Promise<void> {
  await sql`drop table members; drop table courses; drop table tokens; drop table users;`.execute(db);
}
