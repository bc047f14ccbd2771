/** Scripts whose daemon is killed with SIGKILL: no line is begun twice, and nobody guesses how one ended. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { sleep, until } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import type { ScriptDetail } from '#contract/schemas/scripts.ts';
import { waitForJob } from '#jobs/wait.ts';
import type { Actor } from '#base/actor.ts';
import { type Bed, request, startBed } from './testing.ts';
import { startVictim } from './victim.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
const patienceMs = 60_000;
/** A loss that is one too many ends a job (jobs/types.ts). */
const kills = 2;

let bed: Bed;
let anna: Actor;
before(async () => {
  if (skip) return;
  bed = await startBed({ leaseMs: 1000 });
  anna = await bed.user('anna', { admin: true });
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

/** Each line says in the machine that it has begun, and that it has come to its end. */
const linesOf = (count: number, seconds: number): string[] =>
  Array.from(
    { length: count },
    (_, index) => `echo ${index + 1} >>/root/begun; sleep ${seconds}; echo ${index + 1} >>/root/ended`,
  );

async function numbersIn(id: string, path: string): Promise<number[]> {
  const { stdout } = await bed.machines.run(id, runRequest.parse({ argv: ['cat', path], cwd: '/' }));
  return Buffer.from(stdout, 'base64').toString().trim().split('\n').map(Number);
}

/** What the lines say of themselves is what happened in the machine. */
async function check(id: string, { state, results }: ScriptDetail, losses: number): Promise<void> {
  assert.equal(state, 'done');
  const begun = await numbersIn(id, '/root/begun');
  assert.deepEqual(
    begun,
    [...new Set(begun)].sort((left, right) => left - right),
    'none was begun twice, or before its turn',
  );
  const unseen = results.filter(({ end }) => end === null);
  assert.ok(unseen.length <= losses, `${unseen.length} ends were not seen, after ${losses} deaths`);
  for (const { error } of unseen) assert.match(error ?? '', /was interrupted: whether it has done its work/);
  const seen = results.filter(({ end }) => end !== null);
  assert.deepEqual(
    [...new Set(seen.map(({ end }) => JSON.stringify(end)))],
    ['{"kind":"exited","status":0}'],
  );
  const ended = new Set(await numbersIn(id, '/root/ended'));
  for (const { number } of seen) assert.ok(ended.has(number), `line ${number} has not done its work`);
}

const ended = async (id: string, scriptId: string): Promise<ScriptDetail> => {
  const { jobId } = await bed.machines.scripts.get(id, scriptId);
  assert.ok(jobId !== null);
  const job = await waitForJob(bed.store, jobId, { limitMs: patienceMs, pollMs: 100 });
  assert.equal(job.state, 'done', JSON.stringify(job.error));
  return bed.machines.scripts.get(id, scriptId);
};

test('a starter script whose daemon dies at its second line goes on at the third', { skip }, async () => {
  await bed.suspend();
  await using daemon = await startVictim(bed);
  const { machineId: id } = await bed.machines.create(
    anna,
    request({ starter: { lines: linesOf(4, 1), limitSeconds: 30 } }),
  );
  const [script] = await bed.machines.scripts.list(id);
  assert.ok(script?.starter);
  await until(
    patienceMs,
    'the second line to begin',
    async () => {
      const { results } = await bed.machines.scripts.get(id, script.id);
      return results[1]?.startedAt ?? undefined;
    },
    { everyMs: 20 },
  );
  await daemon.kill();
  await bed.resume();
  const detail = await ended(id, script.id);
  await check(id, detail, 1);
  assert.deepEqual(
    detail.results.map(({ end }) => end === null),
    [false, true, false, false],
  );
  await bed.done(bed.machines.remove(anna, id));
});

test('whenever the daemon dies, a script comes to its end', { skip }, async () => {
  for (let round = 0; round < 4; round += 1) {
    const id = await bed.make(anna);
    const { scriptId } = await bed.machines.scripts.run(anna, id, {
      lines: linesOf(12, 0.1),
      limitSeconds: 30,
    });
    await bed.suspend();
    for (let kill = 0; kill < kills; kill += 1) {
      await using daemon = await startVictim(bed);
      await sleep(Math.random() * 700);
      await daemon.kill();
    }
    await bed.resume();
    await check(id, await ended(id, scriptId), kills + 1);
    await bed.done(bed.machines.remove(anna, id));
  }
});
