import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { problem } from '#contract/schemas/common.ts';
import { json } from '#store/columns.ts';
import type { TestCluster } from '#store/testing.ts';
import { jsonAnswer } from './answer.ts';
import { startTestCluster, startTestServer, type Person, type TestServer } from '../testing.ts';

let cluster: TestCluster;
let server: TestServer;
let ada: Person;
let made = 0;
let failing = false;
/** The work is done, and then an error comes: a commit whose acknowledgement was lost. */
let losing = false;
let lostRequest = '';

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster, {
    app: {
      checkReplies: false,
      recover: async (_, __, requestId) =>
        requestId === 'request-before-the-crash' || requestId === lostRequest
          ? jsonAnswer('{"made":"before"}')
          : undefined,
    },
    handlers: () => ({
      async createMachine(_, { requestId }) {
        await sleep(50);
        if (failing) throw new Error('no');
        made += 1;
        if (losing) lostRequest = requestId;
        if (losing)
          throw new CarrelError('unavailable', 'the connection was lost while the change was saved');
        return jsonAnswer(JSON.stringify({ made }), { location: `/v1/jobs/${made}` });
      },
    }),
  });
  ada = await server.person('ada');
});
after(async () => {
  await server.close();
  await cluster.close();
});

const make = (key: string, name = 'web', who = ada) =>
  server.ask(who, 'POST', '/v1/machines', { body: { name }, headers: { 'idempotency-key': key } });

test('the same key and body make the same thing once, with the same answer', async () => {
  const before = made;
  const first = await make('key-1');
  const second = await make('key-1');
  assert.equal(first.status, 202);
  assert.equal(made, before + 1);
  assert.deepEqual([second.status, second.body], [first.status, first.body]);
  assert.equal(second.headers.get('location'), first.headers.get('location'));
  assert.equal(first.headers.get('idempotency-replayed'), null);
  assert.equal(second.headers.get('idempotency-replayed'), 'true');
  assert.notEqual(second.headers.get('x-request-id'), first.headers.get('x-request-id'));
});

test('twenty at once make one', async () => {
  const before = made;
  const answers = await Promise.all(Array.from({ length: 20 }, () => make('key-race')));
  assert.equal(made, before + 1);
  assert.equal(new Set(answers.map(({ body }) => JSON.stringify(body))).size, 1);
});

test('another body with the same key is refused; another user’s key is another key', async () => {
  await make('key-2');
  const other = await make('key-2', 'other');
  assert.equal(other.status, 409);
  assert.equal(problem.parse(other.body).code, 'idempotency_mismatch');
  const before = made;
  await make('key-2', 'web', await server.person('bob'));
  assert.equal(made, before + 1);
});

test('after an error the key is free again', async () => {
  failing = true;
  assert.equal((await make('key-3')).status, 500);
  failing = false;
  assert.equal((await make('key-3')).status, 202);
});

test('an error after the work does not make it be done twice', async () => {
  const before = made;
  losing = true;
  const first = await make('key-lost');
  losing = false;
  assert.deepEqual([first.status, first.body], [202, { made: 'before' }]);
  assert.deepEqual((await make('key-lost')).body, { made: 'before' });
  assert.equal(made, before + 1);
});

test('after 24 hours a key is new', async () => {
  await make('key-4');
  await server.store.db
    .updateTable('idempotency')
    .set({ expires_at: new Date(Date.now() - 1000) })
    .where('key', '=', 'key-4')
    .execute();
  const before = made;
  await make('key-4');
  assert.equal(made, before + 1);
});

test('a daemon that died in between: what it made is found again, what it did not make is made', async () => {
  const { db } = server.store;
  for (const [key, requestId, expected] of [
    ['key-5', 'request-before-the-crash', { made: 'before' }],
    ['key-6', 'request-that-made-nothing', undefined],
  ] as const) {
    await make(key);
    await db
      .updateTable('idempotency')
      .set({ status: null, response: json<unknown>({ run: 'another', requestId }) })
      .where('key', '=', key)
      .execute();
    const before = made;
    const { body } = await make(key);
    assert.deepEqual(body, expected ?? { made: before + 1 });
    assert.deepEqual((await make(key)).body, body);
  }
});

test('a key that is no key is refused', async () => {
  assert.equal((await make('x'.repeat(200))).status, 400);
  assert.equal((await make('with blank')).status, 400);
});
