/** Every operation, every role, own and foreign objects. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { WebSocket } from 'ws';
import { newId } from '#base/ids.ts';
import { operations } from '#contract/api.ts';
import { urlOf } from '#contract/client.ts';
import type { Route } from '#contract/route.ts';
import { insertCourse } from '#store/courses.ts';
import { json } from '#store/columns.ts';
import { insertExec } from '#store/execs.ts';
import { insertForward } from '#store/forwards.ts';
import { insertScript } from '#store/scripts.ts';
import { transaction } from '#store/database.ts';
import { insertLab } from '#store/labs.ts';
import { insertMachine } from '#store/machines.ts';
import { upsertMember } from '#store/members.ts';
import type { Db } from '#store/schema.ts';
import { insertSnapshot } from '#store/snapshots.ts';
import { insertSubmission } from '#store/submissions.ts';
import { stubHandlers, startTestCluster, startTestServer, type Person, type TestServer } from '../testing.ts';
import type { TestCluster } from '#store/testing.ts';
import { expected, type RoleName, roles } from './testing-access.ts';

let forwardPort = 20_000;

/** The objects of one course, by path parameter. */
type World = Readonly<Record<string, string>>;

let cluster: TestCluster;
let server: TestServer;
let people: Readonly<Record<Exclude<RoleName, 'anonymous'>, Person>>;
let own: World;
let foreign: World;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster, { handlers: () => stubHandlers(), app: { checkReplies: false } });
  people = {
    closed: await server.person('closed'),
    stranger: await server.person('stranger'),
    otherStudent: await server.person('olga'),
    student: await server.person('sam'),
    ta: await server.person('tom'),
    instructor: await server.person('ina'),
    admin: await server.person('root', { admin: true }),
  };
  await server.store.db
    .updateTable('users')
    .set({ disabled_at: new Date() })
    .where('id', '=', people.closed.id)
    .execute();
  const elsewhere = { student: await server.person('fay'), instructor: await server.person('fred') };
  own = await makeWorld(server.store.db, 'os', people.student, people.instructor);
  const { db } = server.store;
  await upsertMember(db, { course_id: own['course'] ?? '', user_id: people.ta.id, role: 'ta' });
  await upsertMember(db, {
    course_id: own['course'] ?? '',
    user_id: people.otherStudent.id,
    role: 'student',
  });
  foreign = await makeWorld(db, 'databases', elsewhere.student, elsewhere.instructor);
});
after(async () => {
  await server.close();
  await cluster.close();
});

async function makeWorld(db: Db, name: string, student: Person, instructor: Person): Promise<World> {
  const course = await insertCourse(db, { name, title: name, created_by: instructor.id });
  await upsertMember(db, { course_id: course.id, user_id: instructor.id, role: 'instructor' });
  await upsertMember(db, { course_id: course.id, user_id: student.id, role: 'student' });
  const content = { title: 'Lab', spec: {}, treeHash: 'x', createdBy: instructor.id };
  const { lab, submission } = await db.transaction().execute(async (tx) => {
    const lab = await insertLab(
      tx,
      { courseId: course.id, name: 'lab', ...content },
      { released_at: new Date() },
    );
    const submission = await insertSubmission(tx, {
      labId: lab.id,
      userId: student.id,
      treeHash: 'x',
      files: [],
      bytes: 0,
    });
    return { lab, submission };
  });
  const machine = await insertMachine(db, {
    name: 'web',
    owner_id: student.id,
    course_id: course.id,
    driver: 'container',
  });
  const exec = await insertExec(db, { machine_id: machine.id, argv: json(['true']) });
  forwardPort += 1;
  const forward = await insertForward(db, {
    machine_id: machine.id,
    host: '127.0.0.1',
    port: forwardPort,
    machine_port: 80,
    created_by: student.id,
  });
  const script = await transaction(db, (tx) =>
    insertScript(tx, { machine_id: machine.id, starter: false, limit_ms: 1000, state: 'done' }, ['true']),
  );
  const snapshot = await insertSnapshot(db, machine.id, 'clean');
  const job = newId('job');
  await db
    .insertInto('jobs')
    .values({
      id: job,
      kind: 'submission.grade',
      args: json<unknown>({}),
      requester: student.id,
      resources: json([`/v1/submissions/${submission.id}`]),
    })
    .execute();
  const regrade = newId('regrade');
  await db
    .insertInto('regrades')
    .values({ id: regrade, lab_id: lab.id, requested_by: instructor.id, lab_version: 1 })
    .execute();
  const token = newId('token');
  await db
    .insertInto('tokens')
    .values({ id: token, user_id: student.id, hash: Buffer.alloc(32, name) })
    .execute();
  return {
    course: course.id,
    lab: lab.id,
    submission: submission.id,
    machine: machine.id,
    exec: exec.id,
    forward: forward.id,
    script: script.id,
    snapshot: snapshot.id,
    network: 'default',
    job,
    regrade,
    token,
    user: student.name,
    image: 'debian-12',
  };
}

/** Asks without a body: whoever gets past access is told that the body is wrong, or reaches what stands in for the handler. */
async function outcome(route: Route, person: Person | undefined, world: World): Promise<'ok' | number> {
  const path = urlOf('http://x', route, { params: world }).pathname;
  const status = route.websocket
    ? await knock(path, person)
    : (await server.ask(person, route.method, path)).status;
  return (status >= 200 && status < 300) || status === 415 || status === 422 ? 'ok' : status;
}

/** The status of a WebSocket's handshake; 200 for one that was opened. */
async function knock(path: string, person: Person | undefined): Promise<number> {
  const socket = new WebSocket(`ws://127.0.0.1:${server.port}${path}`, {
    headers: person ? { authorization: `Bearer ${person.secret}` } : {},
  });
  return new Promise((resolve) => {
    socket.on('error', () => undefined);
    socket.on('unexpected-response', (_, response) => {
      response.resume();
      socket.terminate();
      resolve(response.statusCode ?? 0);
    });
    socket.on('open', () => {
      socket.terminate();
      resolve(200);
    });
  });
}

for (const [operation, route] of operations) {
  test(`${operation}: each role gets what the table says`, async () => {
    const found: Partial<Record<RoleName, 'ok' | number>> = {};
    for (const role of roles)
      found[role] = await outcome(route, role === 'anonymous' ? undefined : people[role], own);
    assert.deepEqual(found, { ...expected[operation] });
  });

  if (route.path.includes('{') && !['admin', 'user'].includes(route.access))
    test(`${operation}: what belongs to another course does not exist`, async () => {
      for (const role of ['stranger', 'otherStudent', 'student', 'ta', 'instructor'] as const)
        assert.equal(await outcome(route, people[role], foreign), 404, role);
      assert.equal(await outcome(route, people.admin, foreign), 'ok');
    });
}

test('a foreign object cannot be reached through an own one, not even by an administrator', async () => {
  const mixed = {
    ...own,
    exec: foreign['exec'] ?? '',
    forward: foreign['forward'] ?? '',
    script: foreign['script'] ?? '',
    regrade: foreign['regrade'] ?? '',
    snapshot: foreign['snapshot'] ?? '',
  };
  for (const [operation, route] of operations)
    if (/\{(exec|forward|script|snapshot|regrade)\}/.test(route.path))
      for (const role of ['student', 'instructor', 'admin'] as const) {
        const seen = await outcome(route, people[role], mixed);
        assert.ok(seen === 404 || seen === 403, `${operation} as ${role}: ${seen}`);
        if (role === 'admin') assert.equal(seen, 404, operation);
      }
});

test('an unreleased lab does not exist for students', async () => {
  const { db } = server.store;
  const lab = own['lab'] ?? '';
  await db.updateTable('labs').set({ released_at: null }).where('id', '=', lab).execute();
  try {
    assert.equal((await server.ask(people.student, 'GET', `/v1/labs/${lab}`)).status, 404);
    assert.equal((await server.ask(people.ta, 'GET', `/v1/labs/${lab}`)).status, 200);
  } finally {
    await db.updateTable('labs').set({ released_at: new Date() }).where('id', '=', lab).execute();
  }
});

test('a machine that grades is not its student’s to use', async () => {
  const { db } = server.store;
  const machine = await insertMachine(db, {
    name: 'grading',
    owner_id: people.student.id,
    course_id: own['course'] ?? '',
    submission_id: own['submission'] ?? '',
    driver: 'container',
  });
  assert.equal((await server.ask(people.student, 'GET', `/v1/machines/${machine.id}`)).status, 404);
  assert.equal((await server.ask(people.ta, 'GET', `/v1/machines/${machine.id}`)).status, 200);
});

test('an administrator names everybody’s machines, and is asked which where there are several', async () => {
  const { db } = server.store;
  await insertMachine(db, { name: 'rare', owner_id: people.student.id, driver: 'container' });
  assert.equal((await server.ask(people.admin, 'GET', '/v1/machines/rare')).status, 200);
  const several = await server.ask(people.admin, 'GET', '/v1/machines/web');
  assert.equal(several.status, 400);
  for (const { machine = '' } of [own, foreign]) assert.ok(JSON.stringify(several.body).includes(machine));
  await insertMachine(db, { name: 'web', owner_id: people.admin.id, driver: 'container' });
  assert.equal((await server.ask(people.admin, 'GET', '/v1/machines/web')).status, 200);
});

test('names lead to one’s own machine only, and courses go by id or name', async () => {
  assert.equal((await server.ask(people.student, 'GET', '/v1/machines/web')).status, 200);
  assert.equal((await server.ask(people.ta, 'GET', '/v1/machines/web')).status, 404);
  assert.equal((await server.ask(people.student, 'GET', '/v1/courses/os')).status, 200);
  assert.equal((await server.ask(people.student, 'GET', '/v1/courses/databases')).status, 404);
});

test('odd path parameters are not found, never an error of ours', async () => {
  for (const odd of [
    '..',
    '%2e%2e%2f',
    "x'; drop table users",
    '%00',
    '%ff',
    'm-' + 'x'.repeat(3000),
    '%0d%0aset-cookie: a',
  ])
    for (const path of [
      '/v1/machines/',
      '/v1/labs/',
      '/v1/courses/',
      '/v1/jobs/',
      '/v1/submissions/',
      '/v1/tokens/',
    ]) {
      const url = `http://127.0.0.1:${server.port}${path}${odd.includes('%') ? odd : encodeURIComponent(odd)}`;
      const method = path === '/v1/tokens/' ? 'DELETE' : 'GET';
      const response = await fetch(url, {
        method,
        headers: { authorization: `Bearer ${people.student.secret}` },
      });
      await response.arrayBuffer();
      assert.ok([400, 404, 405].includes(response.status), `${url}: ${response.status}`);
    }
});

test('a WebSocket takes its token from a subprotocol too, and refuses foreign pages', async () => {
  const url = `ws://127.0.0.1:${server.port}/v1/machines/${own['machine']}/console`;
  const open = (protocols: string[], headers: Record<string, string> = {}): Promise<string> =>
    new Promise((resolve) => {
      const socket = new WebSocket(url, protocols, { headers });
      socket.on('error', () => undefined);
      socket.on('unexpected-response', (_, response) => {
        response.resume();
        socket.terminate();
        resolve(String(response.statusCode));
      });
      socket.on('open', () => {
        resolve(`open ${socket.protocol}`);
        socket.terminate();
      });
    });
  const bearer = `carrel.bearer.${people.student.secret}`;
  assert.equal(await open(['carrel.v1', bearer]), 'open carrel.v1');
  assert.equal(await open(['carrel.v1']), '401');
  assert.equal(await open(['carrel.v1', 'carrel.bearer.nonsense']), '401');
  assert.equal(await open(['carrel.v1', bearer], { origin: 'https://evil.example' }), '403');
  assert.equal(
    await open(['carrel.v1', bearer], { origin: `http://127.0.0.1:${server.port}` }),
    'open carrel.v1',
  );
  assert.equal(await open(['carrel.v1', `carrel.bearer.${people.stranger.secret}`]), '404');
});
