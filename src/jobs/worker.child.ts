/**
 * A worker in a process of its own, for tests that kill it: `node worker.child.ts CONNECTION`, where CONNECTION is
 * JSON. It says `ready` on its output and ends with its input.
 */
import { openStore } from '#store/database.ts';
import { sql } from 'kysely';
import { z } from 'zod';
import { defineJob } from './types.ts';
import { createWorker } from './worker.ts';

const connection = z
  .strictObject({ host: z.string(), user: z.string(), database: z.string() })
  .parse(JSON.parse(process.argv[2] ?? ''));
const store = openStore({ connection });

/** Waits for its row in `gates` to open, or forever; says in the table who is at it. */
const gated = defineJob({
  kind: 'test.gated',
  args: z.strictObject({ gate: z.string() }),
  result: z.int(),
  async run({ job }, { gate }) {
    await sql`insert into started (job_id, attempt, pid) values (${job.id}, ${job.attempt}, ${process.pid})`.execute(
      store.db,
    );
    for (;;) {
      const { rows } = await sql`select from gates where gate = ${gate}`.execute(store.db);
      if (rows.length > 0) return process.pid;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
});

const worker = createWorker({ store, jobs: [gated], slots: 4 });
process.stdin.resume().once('end', () => process.exit(0));
process.stdout.write(`ready ${worker.owner}\n`);
