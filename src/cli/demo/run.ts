/**
 * The main job on real input, through the public API, as real accounts: a course, two labs, six students who
 * hand in to both, and their marks with reasons. Run again, it finds everything there and only shows it.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '#base/deadline.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Grade, Lab, Submission } from '#contract/schemas/labs.ts';
import { collectFiles, pack } from '../archive.ts';
import type { Connection } from '../connection.ts';
import { checkMarks } from '../render-grade.ts';
import type { Output } from '../ui/output.ts';
import type { Progress } from '../ui/progress.ts';
import { all as everything, waitForJob } from '../waiting.ts';
import { ensurePeople, type Person } from './people.ts';

const labs = fileURLToPath(new URL('../../../labs/', import.meta.url));
const course = 'os-2026';

/**
 * What each student hands in. For the function: two right ones in different ways, and one for each usual way to go
 * wrong. For the machine: a right one, and what is half done, or faked with programs inside the machine.
 */
const handIns: Readonly<Record<string, readonly string[]>> = {
  'reach-number': [
    'closed-form',
    'step-by-step',
    'forgets-negatives',
    'greedy-loop',
    'undefined-name',
    'forger',
  ],
  'first-namespaces': ['reference', 'only-uts', 'wrong-hostname', 'no-veth', 'two-processes', 'fake-tools'],
};
const classSize = 6;

export interface DemoResult {
  readonly student: string;
  readonly solution: string;
  readonly submission: Submission;
  readonly grade: Grade;
}

async function ensureImages(client: Client, out: Output, names: readonly string[]): Promise<void> {
  const images = await everything((page) => client.listImages({ params: {}, query: page }));
  for (const name of names) {
    if (images.some((image) => image.name === name && image.state === 'ready')) continue;
    out.note(`Building the image ${name}: once, it is kept.`);
    const { job } = await client.buildImage({ params: {}, body: { recipe: name } });
    await waitForJob(client, out, job.id);
  }
}

async function ensureCourse(admin: Client, people: readonly Person[]): Promise<void> {
  try {
    await admin.createCourse({ params: {}, body: { name: course, title: 'Operating systems, a demo' } });
  } catch (error) {
    if (!isCarrelError(error, 'name_taken')) throw error;
  }
  const members = await everything((page) => admin.listMembers({ params: { course }, query: page }));
  for (const { name, role } of people)
    if (!members.some((member) => member.name === name && member.role === role))
      await admin.setMember({ params: { course, user: name }, body: { role, section: null } });
}

/** Imports a lab and releases it. The same folder again makes no new version. */
async function ensureLab(instructor: Client, name: string): Promise<Lab> {
  const directory = join(labs, name);
  const bytes = await pack(await collectFiles([directory], directory));
  const lab = await instructor.importLab(
    { params: { course }, query: {}, bytes },
    { contentType: 'application/x-tar' },
  );
  if (lab.released) return lab;
  return await instructor.changeLab({ params: { lab: lab.id }, body: { released: true } });
}

/** The student's newest submission, or a first one. */
async function ensureSubmission({ client, name }: Person, lab: Lab, solution: string): Promise<string> {
  const { items } = await client.listSubmissions({
    params: { lab: lab.id },
    query: { user: name, limit: 1 },
  });
  const [newest] = items;
  if (newest) return newest.id;
  const directory = join(labs, lab.name, 'solutions', solution);
  const files = (await collectFiles([directory], directory)).filter(({ path }) => path !== 'expect.yaml');
  const { submission } = await client.submit(
    { params: { lab: lab.id }, bytes: await pack(files) },
    { contentType: 'application/x-tar', idempotencyKey: crypto.randomUUID() },
  );
  return submission.id;
}

const limitMs = 600_000;

/** Waits until each submission has a grade that counts, or grading has given up. */
async function untilGraded(
  client: Client,
  ids: readonly string[],
  progress: Progress,
): Promise<Submission[]> {
  const end = performance.now() + limitMs;
  for (;;) {
    const submissions = await Promise.all(
      ids.map((submission) => client.getSubmission({ params: { submission } })),
    );
    const done = submissions.filter(({ grading }) => grading === 'graded' || grading === 'error');
    progress.update('graded', done.length, ids.length);
    if (done.length === ids.length) return submissions;
    if (performance.now() > end)
      throw new CarrelError('deadline_exceeded', `${ids.length - done.length} submissions are not graded`, {
        hint: 'see: carrel job ls',
      });
    await sleep(150);
  }
}

async function currentGrade(client: Client, submission: Submission): Promise<Grade> {
  const { items } = await client.listGrades({ params: { submission: submission.id } });
  const grade = items.find(({ current }) => current);
  if (!grade)
    throw new CarrelError('internal', `${submission.id} was graded, but has no grade`, {
      hint: 'see: carrel job ls',
    });
  return grade;
}

/** One sentence: what went wrong first, and how often. */
export function shortReason({ checks }: Grade): string {
  const wrong = checks.filter(({ state }) => state !== 'passed');
  const [first] = wrong;
  if (!first) return 'every check passed';
  const why = first.reason.startsWith(first.title) ? first.reason : `${first.title}: ${first.reason}`;
  return wrong.length === 1 ? why : `${why} (and ${wrong.length - 1} more)`;
}

/** One lab: imported, handed in by every student, graded. */
async function runLab(
  instructor: Client,
  students: readonly Person[],
  name: string,
  progress: Progress,
): Promise<{ readonly lab: Lab; readonly results: readonly DemoResult[] }> {
  const solutions = handIns[name] ?? [];
  progress.update(`lab ${name}`);
  const lab = await ensureLab(instructor, name);
  const ids = await Promise.all(
    students.map((student, index) => ensureSubmission(student, lab, solutions[index] ?? '')),
  );
  const submissions = await untilGraded(instructor, ids, progress);
  const results = await Promise.all(
    submissions.map(async (submission, index) => ({
      student: submission.user,
      solution: solutions[index] ?? '',
      submission,
      grade: await currentGrade(instructor, submission),
    })),
  );
  return { lab, results };
}

function show(out: Output, { title, points, checks }: Lab, results: readonly DemoResult[]): void {
  out.note(`\n${out.paint('bold', `${title}: ${points} points, ${checks.length} checks`)}`);
  out.table(
    results,
    [
      { head: 'STUDENT', cell: ({ student }) => student },
      { head: 'SOLUTION', cell: ({ solution }) => solution },
      { head: 'POINTS', cell: ({ grade }) => `${grade.points ?? '-'}/${grade.maxPoints}`, align: 'right' },
      { head: 'CHECKS', cell: ({ grade }) => checkMarks(grade.checks) },
      { head: 'WHY', cell: ({ grade }) => shortReason(grade) },
    ],
    'nobody handed in',
  );
}

export async function runDemo(
  connection: Connection,
  data: string,
  out: Output,
): Promise<readonly DemoResult[]> {
  const { client: admin, url } = connection;
  await ensureImages(admin, out, ['busybox', 'debian-12']);
  using progress = out.progress();
  progress.update('people and course');
  const people = await ensurePeople(connection, data, [
    { name: 'instructor', role: 'instructor' },
    { name: 'ta', role: 'ta' },
    ...Array.from({ length: classSize }, (_, index) => ({
      name: `student-${index + 1}`,
      role: 'student' as const,
    })),
  ]);
  await ensureCourse(admin, people);
  const [instructor, , ...students] = people;
  if (!instructor) throw new CarrelError('internal', 'the demo has no instructor');
  const all: DemoResult[] = [];
  for (const name of Object.keys(handIns)) {
    const { lab, results } = await runLab(instructor.client, students, name, progress);
    progress.clear();
    show(out, lab, results);
    all.push(...results);
  }
  const flag = data === '/var/lib/carrel' ? '' : ` --data ${data}`;
  out.note(
    [
      '',
      `Carrel is up: ${out.paint('bold', url)}`,
      `  carrel gradebook ${course}/reach-number${flag}      the class`,
      `  carrel grade show ${all[2]?.submission.id}${flag}        one mark with its reasons`,
      `  carrel machine new my-machine${flag}        a machine with root; then: carrel machine exec my-machine`,
      `  carrel lab check labs/first-namespaces        prove a lab`,
      `  carrel status${flag}, carrel down${flag}`,
    ].join('\n'),
  );
  return all;
}
