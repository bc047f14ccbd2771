/**
 * How long a container machine takes to be there, to answer, and to be gone. Needs root.
 *
 *     node bench/machine.ts [--rounds N] [--json]
 */
import { parseArgs } from 'node:util';
import { runRequest } from '#contract/schemas/machines.ts';
import { request, startBed } from '#machines/testing.ts';
import { report, rowsOf, summarise } from './measure.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '30' }, json: { type: 'boolean' } },
});
const rounds = Number(values.rounds);
const warmUp = 3;

await using bed = await startBed();
const actor = await bed.user('bench', { admin: true });
const isTrue = runRequest.parse({ argv: ['true'] });

/** What is measured, with the goals for the median in milliseconds. */
const goals = { 'create to first answered command': 60, 'run true': 8, 'stop and delete': 50 } as const;
type Name = keyof typeof goals;
const samples: Record<Name, number[]> = {
  'create to first answered command': [],
  'run true': [],
  'stop and delete': [],
};
const time = async (name: Name, round: number, work: () => Promise<unknown>): Promise<void> => {
  const start = performance.now();
  await work();
  if (round >= 0) samples[name].push(performance.now() - start);
};

for (let round = -warmUp; round < rounds; round += 1) {
  let id = '';
  await time('create to first answered command', round, async () => {
    id = await bed.make(actor, request());
    await bed.machines.run(id, isTrue);
  });
  for (let run = 0; run < 5; run += 1) await time('run true', round, () => bed.machines.run(id, isTrue));
  await time('stop and delete', round, async () => {
    await bed.done(bed.machines.stop(actor, id, { graceMs: 1000 }));
    await bed.done(bed.machines.remove(actor, id));
  });
}

const timings = Object.entries(samples).map(([name, times]) => summarise(name, times));
const goalColumn = Object.values(goals);
report(
  'container machines',
  rowsOf(timings).map((row, index) => Object.assign(row, { 'goal p50 ms': goalColumn[index] ?? 0 })),
);
