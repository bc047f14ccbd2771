/**
 * What grading adds to the program that is graded, through a real daemon: time of a submission's job over the time
 * of the same programs bare, for each check. With an idle queue the clock starts when the submission was taken;
 * with a queue of ten times the cores it starts when a worker takes the job, since waiting in line is not overhead;
 * beside it stands the processor time of all cores for each check, the programs' own taken off.
 *
 *   node bench/grading.ts [--rounds 40] [--json]
 *
 * `true`: a busybox program that does nothing. `C`: a function compiled by gcc and called, one process for each
 * check; a submission is compiled once, and bare is gcc with the same arguments plus the bare program.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { collectFiles, pack } from '#cli/archive.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import { launch } from '#host/launch.ts';
import { cHarness } from '#grading/checks/c-harness.ts';
import { parseSignature } from '#grading/format/signature.ts';
import { startCloud, type Cloud, type Person } from '#test/harness/cloud.ts';
import { quantile, report } from './measure.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '40' }, json: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds);
const cores = availableParallelism();
const signature = 'int add(int, int)';
const source = 'int add(int a, int b) { return a + b; }\n';

interface Bench {
  readonly name: string;
  readonly checks: number;
  readonly image: string;
  /** One check of lab.yaml, as JSON (which is YAML). */
  readonly check: (index: number) => unknown;
  readonly file: readonly [name: string, text: string];
  /** Milliseconds for the same programs without any of us, for a whole submission. */
  readonly bare: () => Promise<number>;
}

/** Milliseconds of one run, as the median of batches of a shell's loop: Node's own spawn would be slower. */
async function loop(times: number, ...command: readonly string[]): Promise<number> {
  const script = 'i=0; while [ $i -lt $0 ]; do "$@" </dev/null >/dev/null 3>/dev/null; i=$((i+1)); done';
  const samples: number[] = [];
  for (let round = 0; round < 5; round += 1) {
    const began = performance.now();
    const { status, stderr } = await launch(['busybox', 'sh', '-c', script, String(times), ...command]);
    if (status !== 0) throw new Error(stderr.toString());
    samples.push((performance.now() - began) / times);
  }
  return quantile(samples, 0.5);
}

const scratch = mkdtempSync(join(tmpdir(), 'carrel-bench-'));

async function bareC(checks: number): Promise<number> {
  writeFileSync(join(scratch, 'call.c'), cHarness(parseSignature(signature)));
  writeFileSync(join(scratch, 'add.c'), source);
  const program = join(scratch, 'call');
  const main = '-Dmain=carrel_main_of_submission';
  const files = [join(scratch, 'call.c'), join(scratch, 'add.c')];
  const compile = await loop(5, 'gcc', '-std=gnu17', '-O1', '-Wall', main, '-o', program, ...files);
  return compile + checks * (await loop(100, program));
}

const trueCheck = (index: number): unknown => ({
  id: `check-${index}`,
  title: 'Nothing',
  run: { argv: ['/bin/busybox', 'true'], expect: { status: 0 } },
});
const cCheck = (index: number): unknown => ({
  id: `check-${index}`,
  title: 'A sum',
  call: { language: 'c', file: 'add.c', function: 'add', signature, args: [index, 1], returns: index + 1 },
});
const benches: readonly Bench[] = [
  ...[1, 10].map((checks): Bench => ({
    name: `true, ${checks} in a submission`,
    checks,
    image: 'busybox',
    check: trueCheck,
    file: ['answer.txt', 'nothing\n'],
    bare: async () => checks * (await loop(200, 'busybox', 'true')),
  })),
  ...[1, 10].map((checks): Bench => ({
    name: `C, ${checks} in a submission`,
    checks,
    image: 'debian-12',
    check: cCheck,
    file: ['add.c', source],
    bare: () => bareC(checks),
  })),
];

interface Prepared {
  readonly lab: string;
  readonly bytes: Uint8Array;
}

async function prepare(cloud: Cloud, bench: Bench, number: number): Promise<Prepared> {
  const folder = join(scratch, `bench-${number}`);
  mkdirSync(folder);
  const checks = Array.from({ length: bench.checks }, (_, index) => bench.check(index));
  const { name: title, image } = bench;
  const submit = { files: [{ pattern: bench.file[0] }] };
  const lab = { title, name: `bench-${number}`, image, run: 'sandbox', points: bench.checks, submit, checks };
  writeFileSync(join(folder, 'lab.yaml'), JSON.stringify(lab));
  const course = { course: 'bench' };
  const archive = await pack(await collectFiles([folder], folder));
  const { id } = await cloud.admin.importLab({ params: course, query: {}, bytes: archive });
  await cloud.admin.changeLab({ params: { lab: id }, body: { released: true } });
  const file = join(scratch, bench.file[0]);
  writeFileSync(file, bench.file[1]);
  return { lab: id, bytes: await pack(await collectFiles([file], scratch)) };
}

async function grade({ client }: Person, { lab, bytes }: Prepared): Promise<Job> {
  const { submission, job } = await client.submit({ params: { lab }, bytes });
  const ended = await client.getJob({ params: { job: job.id }, query: { wait: 60 } });
  const { points, maxPoints } = await client.getSubmission({ params: { submission: submission.id } });
  if (points !== maxPoints || points === null) throw new Error(`${points} of ${maxPoints} points`);
  return ended;
}

const between = (from: string | null, to: string | null): number =>
  new Date(to ?? Number.NaN).getTime() - new Date(from ?? Number.NaN).getTime();

const rows: Record<string, string | number>[] = [];
const cloud = await startCloud();
try {
  await cloud.admin.createCourse({ params: {}, body: { name: 'bench', title: 'Benchmarks' } });
  const student = await cloud.person('student');
  await cloud.admin.setMember({
    params: { course: 'bench', user: 'student' },
    body: { role: 'student', section: null },
  });
  for (const [number, bench] of benches.entries()) {
    const prepared = await prepare(cloud, bench, number);
    for (let round = 0; round < 3; round += 1) await grade(student, prepared);

    // bare and graded take turns, so that a busy moment hits both
    const bare: number[] = [];
    const alone: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      if (round % Math.ceil(rounds / 4) === 0) bare.push(await bench.bare());
      const job = await grade(student, prepared);
      alone.push(between(job.createdAt, job.finishedAt));
    }
    const inFlight = 10 * cores;
    const busy: number[] = [];
    const began = performance.now();
    let left = Math.max(2 * inFlight, rounds * 2);
    const submitter = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        const job = await grade(student, prepared);
        busy.push(between(job.startedAt, job.finishedAt));
      }
    };
    await Promise.all(Array.from({ length: inFlight }, submitter));
    const seconds = (performance.now() - began) / 1000;
    const bareMs = quantile(bare, 0.5);
    const perCheck = (samples: readonly number[], share: number): number =>
      (quantile(samples, share) - bareMs) / bench.checks;
    rows.push({
      checks: bench.name,
      'bare ms/check': bareMs / bench.checks,
      'idle: overhead p50 ms': perCheck(alone, 0.5),
      'p95 ms': perCheck(alone, 0.95),
      'queue 10x: overhead p50 ms': perCheck(busy, 0.5),
      'core-ms over bare': (1000 * seconds * cores) / (busy.length * bench.checks) - bareMs / bench.checks,
      'checks/s/core': (busy.length * bench.checks) / seconds / cores,
    });
  }
} finally {
  await cloud[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
}
report('Grading: overhead per check over the bare program', rows);
