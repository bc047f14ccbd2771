/** The classroom over a real database: what is kept, what is shown to whom, what a regrade changes. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Actor } from '#base/actor.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { CheckResult } from '#contract/schemas/labs.ts';
import type { LabDefinition } from '#grading/format/lab.ts';
import { writeTar } from '#images/archive/tarwriter.ts';
import { openBlobs } from '#images/blobs.ts';
import { transaction } from '#store/database.ts';
import { insertGrade } from '#store/grades.ts';
import { startTestCluster, type TestCluster } from '#store/testing.ts';
import { insertUser } from '#store/users.ts';
import { changeCourse, createCourse, listCourses, listMembers, removeMember, setMember } from './courses.ts';
import { openLabFolders } from './folders.ts';
import { getGradebook } from './gradebook.ts';
import { changeLab, importLab, listLabs } from './labs.ts';
import { createRegrade, getRegrade, undoRegrade } from './regrades.ts';
import {
  getSubmission,
  listGrades,
  listSubmissions,
  submit,
  type SubmissionServices,
} from './submissions.ts';

let pg: TestCluster;
let directory: string;
before(async () => {
  pg = await startTestCluster();
  directory = await mkdtemp(join(tmpdir(), 'carrel-classroom-'));
});
after(async () => {
  await pg.close();
  await rm(directory, { recursive: true, force: true });
});

const staff = { staff: true, now: new Date() };
const student = { staff: false, now: new Date() };

const labYaml = (points: number): string => `
title: Say hello
name: hello
image: busybox
run: sandbox
points: ${points}
submit:
  files: [{ pattern: hello.sh, maxSize: 1K }]
checks:
  - id: says-hello
    title: Says hello
    run: { argv: [sh, hello.sh], expect: { stdout: { exact: "hello\\n" } } }
  - id: secret
    title: A hidden check
    visibility: hidden
    run: { argv: [sh, hello.sh], expect: { status: 0 } }
`;

function tar(files: Readonly<Record<string, string>>) {
  return writeTar(
    Object.entries(files).map(([path, text]) => ({
      path,
      kind: 'file' as const,
      size: Buffer.byteLength(text),
      data: [Buffer.from(text)],
    })),
  );
}

function check(id: string, points: number, visibility: 'hidden' | 'visible'): CheckResult {
  return {
    id,
    title: id,
    state: points > 0 ? 'passed' : 'failed',
    points,
    maxPoints: 5,
    visibility,
    reason: 'as observed',
    stdout: '',
    stderr: '',
    wallMs: 1,
    cpuMs: 1,
    memoryBytes: null,
  };
}

interface World extends SubmissionServices {
  readonly ines: Actor;
  readonly sam: Actor;
  readonly courseId: string;
  readonly labs: string;
}

/** Every lab is welcome. */
const anything = async (): Promise<void> => undefined;

async function world(accept: (lab: LabDefinition) => Promise<void> = anything): Promise<World> {
  const { db } = await pg.freshStore();
  const account = async (name: string): Promise<Actor> => {
    const row = await insertUser(db, { name });
    return { id: row.id, name, admin: false };
  };
  const [ines, sam] = [await account('ines'), await account('sam')];
  const place = await mkdtemp(join(directory, 'cloud-'));
  const blobs = await openBlobs(join(place, 'blobs'));
  const labs = join(place, 'labs');
  const folders = await openLabFolders({ directory: labs, blobs, accept });
  const course = await createCourse(db, ines, { name: 'os', title: 'Operating systems' });
  await setMember(db, ines, course.id, 'sam', { role: 'student', section: 'A' });
  return { db, blobs, folders, ines, sam, courseId: course.id, labs };
}

const helloLab = (points = 10) => tar({ 'hello/lab.yaml': labYaml(points) });

async function withLab() {
  const cloud = await world();
  const lab = await importLab(cloud, cloud.ines, cloud.courseId, { source: helloLab(), format: 'tar' });
  const handIn = (text = 'echo hello') =>
    submit(cloud, cloud.sam, lab.id, { source: tar({ 'hello.sh': text }), format: 'tar' });
  const grade = (submissionId: string, points: number, regradeId: string | null = null) =>
    transaction(cloud.db, (tx) =>
      insertGrade(tx, {
        submissionId,
        labVersion: 1,
        jobId: null,
        regradeId,
        state: 'graded',
        points,
        maxPoints: 10,
        checks: [check('says-hello', points / 2, 'visible'), check('secret', points / 2, 'hidden')],
      }),
    );
  return { ...cloud, lab, handIn, grade };
}

test('a course lists its members by role, and keeps its last instructor', async () => {
  const { db, ines, sam, courseId } = await world();
  const { items } = await listMembers(db, courseId, { limit: 10 });
  assert.deepEqual(
    items.map(({ name, role }) => `${name} ${role}`),
    ['ines instructor', 'sam student'],
  );
  const first = await listMembers(db, courseId, { limit: 1 });
  assert.ok(first.next);
  assert.equal((await listMembers(db, courseId, { limit: 1, cursor: first.next })).items[0]?.name, 'sam');
  await assert.rejects(removeMember(db, ines, courseId, 'ines'), (error) =>
    isCarrelError(error, 'wrong_state'),
  );
  await assert.rejects(setMember(db, ines, courseId, 'ines', { role: 'ta', section: null }), (error) =>
    isCarrelError(error, 'wrong_state'),
  );
  assert.equal((await listCourses(db, sam, { limit: 10 })).items[0]?.role, 'student');
  const { etag } = await changeCourse(db, ines, courseId, { title: 'OS' });
  assert.equal(etag, 2);
});

test('an invalid lab leaves nothing; a changed one is a new version, an equal one is not', async () => {
  const cloud = await world();
  const broken = tar({ 'lab.yaml': 'title: x\nunknown: 1\n' });
  await assert.rejects(
    importLab(cloud, cloud.ines, cloud.courseId, { source: broken, format: 'tar' }),
    (error) => isCarrelError(error, 'lab_invalid'),
  );
  assert.deepEqual(await readdir(cloud.labs), []);
  const take = (points: number) =>
    importLab(cloud, cloud.ines, cloud.courseId, { source: helloLab(points), format: 'tar' });
  assert.equal((await take(10)).version, 1);
  assert.equal((await take(10)).version, 1);
  const second = await take(20);
  assert.equal(second.version, 2);
  assert.equal(second.points, 20);
  assert.equal((await listLabs(cloud, cloud.courseId, { limit: 10 }, student)).items.length, 0);
  await changeLab(cloud, cloud.ines, second.id, { released: true });
  const [seen] = (await listLabs(cloud, cloud.courseId, { limit: 10 }, student)).items;
  assert.deepEqual(
    seen?.checks.map(({ id }) => id),
    ['says-hello'],
  );
});

test('a lab that could not be graded here is refused, and leaves nothing', async () => {
  const cloud = await world(({ image }) =>
    Promise.reject(new CarrelError('host_unsupported', `there is nothing for ${image} here`)),
  );
  await assert.rejects(importLab(cloud, cloud.ines, cloud.courseId, { source: helloLab(), format: 'tar' }), {
    code: 'host_unsupported',
    message: 'there is nothing for busybox here',
  });
  assert.deepEqual(await readdir(cloud.labs), []);
});

test('a submission is a fact: numbered, hashed by content, refused as a whole if a file is not asked for', async () => {
  const { db, sam, lab, handIn, ...services } = await withLab();
  const one = await handIn();
  const two = await handIn();
  const receipts = await Promise.all(
    [one, two].map(({ submissionId }) => getSubmission({ db, ...services }, submissionId, student)),
  );
  assert.deepEqual(
    receipts.map(({ attempt }) => attempt),
    [1, 2],
  );
  assert.equal(receipts[0]?.treeHash, receipts[1]?.treeHash);
  assert.equal(receipts[0]?.grading, 'queued');
  await assert.rejects(
    submit({ db, ...services }, sam, lab.id, {
      source: tar({ 'hello.sh': 'x', 'other.c': 'y' }),
      format: 'tar',
    }),
    (error) => isCarrelError(error, 'validation_failed') && /other\.c is not asked for/.test(error.message),
  );
  await assert.rejects(
    submit({ db, ...services }, sam, lab.id, {
      source: tar({ 'hello.sh': 'x'.repeat(2000) }),
      format: 'tar',
    }),
    (error) => isCarrelError(error, 'too_large'),
  );
  assert.equal(
    (await listSubmissions({ db, ...services }, sam, lab.id, { limit: 10 }, student)).items.length,
    2,
  );
});

test('a student sees neither hidden checks nor a total that would tell them, until the marks are published', async () => {
  const cloud = await withLab();
  const { submissionId } = await cloud.handIn();
  await cloud.grade(submissionId, 10);
  const [mine] = await listGrades(cloud, submissionId, student);
  assert.deepEqual(
    mine?.checks.map(({ id }) => id),
    ['says-hello'],
  );
  assert.equal(mine?.points, null);
  assert.equal(mine?.hiddenChecks, 1);
  assert.equal((await getSubmission(cloud, submissionId, student)).points, null);
  assert.equal((await listGrades(cloud, submissionId, staff))[0]?.points, 10);
  await changeLab(cloud, cloud.ines, cloud.lab.id, { published: true });
  const later = { staff: false, now: new Date(Date.now() + 1000) };
  assert.equal((await getSubmission(cloud, submissionId, later)).points, 10);
});

test('late work loses what the rule says, and is refused where the rule accepts none', async () => {
  const cloud = await withLab();
  const { submissionId } = await cloud.handIn();
  await cloud.grade(submissionId, 10);
  const dueAt = new Date(Date.now() - 3_600_000).toISOString();
  const rule = { accept: true, graceMinutes: 0, percentPerDay: 20, floorPercent: 0 };
  await changeLab(cloud, cloud.ines, cloud.lab.id, { dueAt, lateRule: rule });
  const [grade] = await listGrades(cloud, submissionId, staff);
  assert.deepEqual([grade?.rawPoints, grade?.points], [10, 8]);
  await changeLab(cloud, cloud.ines, cloud.lab.id, { lateRule: { ...rule, accept: false } });
  await assert.rejects(cloud.handIn(), (error) => isCarrelError(error, 'wrong_state'));
});

test('the best submission counts in the gradebook, and a student without one has a line too', async () => {
  const cloud = await withLab();
  const one = await cloud.handIn();
  const two = await cloud.handIn('echo worse');
  await cloud.grade(one.submissionId, 10);
  await cloud.grade(two.submissionId, 4);
  await insertUser(cloud.db, { name: 'tess' });
  await setMember(cloud.db, cloud.ines, cloud.courseId, 'tess', { role: 'student', section: null });
  const rows = await getGradebook(cloud, cloud.lab.id);
  assert.deepEqual(
    rows.map(({ user, attempts, submissionId, state, points }) => ({
      user,
      attempts,
      submissionId,
      state,
      points,
    })),
    [
      { user: 'sam', attempts: 2, submissionId: one.submissionId, state: 'graded', points: 10 },
      { user: 'tess', attempts: 0, submissionId: null, state: 'none', points: null },
    ],
  );
});

test('a regrade shows its difference, and undoing it brings the old grades back', async () => {
  const cloud = await withLab();
  const { submissionId } = await cloud.handIn();
  await cloud.grade(submissionId, 10);
  const { regradeId } = await createRegrade(cloud.db, cloud.ines, cloud.lab.id, undefined);
  await cloud.grade(submissionId, 6, regradeId);
  const regrade = await getRegrade(cloud.db, regradeId);
  assert.deepEqual(regrade.changes, [
    { submissionId, user: 'sam', before: 10, after: 6, checks: ['says-hello', 'secret'] },
  ]);
  assert.deepEqual(
    (await listGrades(cloud, submissionId, staff)).map(({ points }) => points),
    [6, 10],
  );
  const undone = await undoRegrade(cloud.db, cloud.ines, regradeId);
  assert.ok(undone.undoneAt);
  assert.equal(undone.changes[0]?.before, 10);
  assert.equal((await listGrades(cloud, submissionId, staff))[0]?.points, 10);
  await assert.rejects(createRegrade(cloud.db, cloud.ines, cloud.lab.id, ['s-000000000000']), (error) =>
    isCarrelError(error, 'not_found'),
  );
});
