import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { within } from '#base/deadline.ts';
import { insertCourse } from '#store/courses.ts';
import { insertEvent } from '#store/events.ts';
import { upsertMember } from '#store/members.ts';
import type { TestCluster } from '#store/testing.ts';
import { openEventFeed } from './feed.ts';
import { eventStream } from './stream.ts';
import { startTestCluster, startTestServer, type Person, type TestServer } from '../testing.ts';

let cluster: TestCluster;
let server: TestServer;
let admin: Person;
let ada: Person;
let eve: Person;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster);
  admin = await server.person('admin', { admin: true });
  ada = await server.person('ada');
  eve = await server.person('eve');
});
after(async () => {
  await server.close();
  await cluster.close();
});

const happen = (kind: string, owner: Person, courseId: string | null = null) =>
  insertEvent(server.store.db, {
    kind,
    subject: 'm-000000000000',
    ownerId: owner.id,
    courseId,
    actor: admin.id,
  });

/** Reads a stream until `count` events have come. */
async function follow(
  person: Person,
  count: number,
  path = '/v1/events',
  lastEventId?: number,
): Promise<{ ids: number[]; kinds: string[] }> {
  const stop = new AbortController();
  const response = await fetch(server.base + path, {
    headers: {
      authorization: `Bearer ${person.secret}`,
      ...(lastEventId !== undefined && { 'last-event-id': String(lastEventId) }),
    },
    signal: stop.signal,
  });
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  const seen = { ids: [] as number[], kinds: [] as string[] };
  let text = '';
  const read = async (): Promise<void> => {
    for await (const chunk of response.body ?? []) {
      text += Buffer.from(chunk).toString();
      // whole lines only: a chunk may end anywhere
      const events = [...text.matchAll(/^id: (\d+)\nevent: (.*)\n/gm)];
      seen.ids = events.map(([, id]) => Number(id));
      seen.kinds = events.map(([, , kind = '']) => kind);
      if (seen.ids.length >= count) return;
    }
  };
  await within(120_000, `${count} events`, read()).finally(() => stop.abort());
  return seen;
}

test('a follower sees what happens, in order, and only what is his to see', async () => {
  const following = follow(ada, 3);
  await new Promise((resolve) => setTimeout(resolve, 200));
  await happen('one', ada);
  await happen('foreign', eve);
  await happen('two', ada);
  await happen('three', ada);
  assert.deepEqual((await following).kinds, ['one', 'two', 'three']);
});

test('Last-Event-ID replays from there on, without a gap', async () => {
  const { items, next } = await ada.client.pollEvents({ params: {}, query: { after: 0 } });
  assert.deepEqual(
    items.map(({ kind }) => kind),
    ['one', 'two', 'three'],
  );
  const [first] = items;
  assert.ok(first && next !== null);
  const replay = await follow(ada, 2, '/v1/events', first.seq);
  assert.deepEqual(replay.kinds, ['two', 'three']);
  const everything = await follow(admin, 4, '/v1/events?after=0');
  assert.deepEqual(everything.kinds.slice(0, 4), ['one', 'foreign', 'two', 'three']);
});

test('replay and live meet without loss or repetition', async () => {
  const start = Number((await admin.client.pollEvents({ params: {}, query: {} })).next);
  const writing = (async () => {
    for (let index = 0; index < 300; index += 1) await happen(`n${index}`, ada);
  })();
  const followers = Array.from({ length: 5 }, () => follow(ada, 300, '/v1/events', start));
  await writing;
  for (const { kinds } of await Promise.all(followers))
    assert.deepEqual(
      kinds,
      Array.from({ length: 300 }, (_, index) => `n${index}`),
    );
});

async function inCourse(person: Person): Promise<string[]> {
  const query = { after: 0, kind: 'in-course' };
  return (await person.client.pollEvents({ params: {}, query })).items.map((item) => item.kind);
}

test('the staff of a course see its events, students do not see each other’s', async () => {
  const { db } = server.store;
  const course = await insertCourse(db, { name: 'os', title: 'OS', created_by: admin.id });
  const ta = await server.person('tom');
  const student = await server.person('sam');
  await upsertMember(db, { course_id: course.id, user_id: ta.id, role: 'ta' });
  await upsertMember(db, { course_id: course.id, user_id: student.id, role: 'student' });
  await happen('in-course', ada, course.id);
  assert.deepEqual(await inCourse(ta), ['in-course']);
  assert.deepEqual(await inCourse(student), []);
});

test('what has been deleted is gone, and says so', async () => {
  const { db } = server.store;
  await db.deleteFrom('events').where('kind', 'in', ['one', 'foreign']).execute();
  const { status } = await server.ask(ada, 'GET', '/v1/events?after=0');
  assert.equal(status, 410);
  assert.equal((await server.ask(ada, 'GET', '/v1/events/list?after=0')).status, 410);
  assert.equal(
    (await server.ask(ada, 'GET', '/v1/events', { headers: { 'last-event-id': 'x' } })).status,
    400,
  );
  assert.equal((await server.ask(ada, 'HEAD', '/v1/events')).status, 200);
});

test('a stream ends with its token', async () => {
  const bob = await server.person('bob');
  const response = await fetch(`${server.base}/v1/events`, {
    headers: { authorization: `Bearer ${bob.secret}` },
  });
  const reading = response.text();
  assert.equal((await server.ask(admin, 'DELETE', '/v1/users/bob')).status, 204);
  assert.match(await within(5000, 'the stream to end', reading), /^retry: /);
});

test('a stream that nobody reads ends, and lets go of the feed', async () => {
  const feed = openEventFeed(server.store);
  const { events } = await feed.read({ actor: { ...admin, admin: true } }, 0);
  assert.ok(events.length > 0);
  const stream = eventStream({
    feed,
    filter: { actor: { ...admin, admin: true } },
    after: 0,
    signal: new AbortController().signal,
    pulseMs: 10,
    patienceMs: 50,
  });
  const reader = stream.getReader();
  await reader.read();
  await within(
    5000,
    'the stream to fail',
    reader.closed.catch(() => undefined),
  );
  await assert.rejects(reader.read(), /too slow/);
  feed.close();
});
