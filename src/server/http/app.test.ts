import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startTestCluster, startTestServer, type Person, type TestServer } from '../testing.ts';
import type { TestCluster } from '#store/testing.ts';
import { problem } from '#contract/schemas/common.ts';

let cluster: TestCluster;
let server: TestServer;
let admin: Person;
let ada: Person;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster);
  admin = await server.person('admin', { admin: true });
  ada = await server.person('ada');
});
after(async () => {
  await server.close();
  await cluster.close();
});

/** The answer is a problem with this code, and says which request it was. */
function assertProblem(
  answered: { status: number; headers: Headers; body: unknown },
  status: number,
  code: string,
): void {
  const parsed = problem.parse(answered.body);
  assert.deepEqual({ status: answered.status, code: parsed.code }, { status, code }, parsed.detail);
  assert.equal(answered.headers.get('content-type'), 'application/problem+json');
  assert.equal(answered.headers.get('x-request-id'), parsed.requestId);
}

test('health needs no token, and every answer carries the security headers', async () => {
  const { status, headers } = await server.ask(undefined, 'GET', '/v1/health');
  assert.equal(status, 200);
  assert.equal(headers.get('x-content-type-options'), 'nosniff');
  assert.equal(headers.get('cache-control'), 'no-store');
  assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'/);
});

test('a request id comes back, unless it could hurt a log', async () => {
  const good = await server.ask(ada, 'GET', '/v1/me', { headers: { 'x-request-id': 'my-request.0001' } });
  assert.equal(good.headers.get('x-request-id'), 'my-request.0001');
  for (const bad of ['short', 'has space in it', '{"a":1}aaaaaaaa', 'x'.repeat(65)]) {
    const other = await server.ask(ada, 'GET', '/v1/me', { headers: { 'x-request-id': bad } });
    assert.notEqual(other.headers.get('x-request-id'), bad);
    assert.match(other.headers.get('x-request-id') ?? '', /^r[0-9a-f]{24}$/);
  }
});

test('unknown paths are 404, wrong methods 405 with what is possible', async () => {
  assertProblem(await server.ask(ada, 'GET', '/v1/nothing'), 404, 'not_found');
  assertProblem(await server.ask(ada, 'GET', '/'), 404, 'not_found');
  const wrong = await server.ask(ada, 'DELETE', '/v1/users');
  assertProblem(wrong, 405, 'method_not_allowed');
  assert.equal(wrong.headers.get('allow'), 'GET, HEAD, POST');
});

test('HEAD answers like GET, without a body', async () => {
  const { status, headers, body } = await server.ask(ada, 'HEAD', '/v1/me');
  assert.equal(status, 200);
  assert.equal(headers.get('content-type'), 'application/json');
  assert.equal(body, undefined);
});

test('without a valid token nothing but public things is shown', async () => {
  const wrong = { ...ada, secret: `carrel_${'a'.repeat(52)}` };
  assertProblem(await server.ask(undefined, 'GET', '/v1/me'), 401, 'unauthenticated');
  assertProblem(await server.ask(wrong, 'GET', '/v1/me'), 401, 'unauthenticated');
  const basic = await server.ask(undefined, 'GET', '/v1/me', { headers: { authorization: 'Basic YTpi' } });
  assertProblem(basic, 401, 'unauthenticated');
  assert.equal(basic.headers.get('www-authenticate'), 'Bearer');
});

test('a revoked token ends at once, and so do the tokens of a closed account', async () => {
  const bob = await server.person('bob');
  const { token, secret } = await bob.client.createToken({ params: {}, body: { label: 'second' } });
  const second = { ...bob, secret };
  assert.equal((await server.ask(second, 'GET', '/v1/me')).status, 200);
  assert.equal((await server.ask(bob, 'DELETE', `/v1/tokens/${token.id}`)).status, 204);
  assertProblem(await server.ask(second, 'GET', '/v1/me'), 401, 'unauthenticated');
  assert.equal((await server.ask(bob, 'GET', '/v1/me')).status, 200);
  assert.equal((await server.ask(admin, 'DELETE', '/v1/users/bob')).status, 204);
  assertProblem(await server.ask(bob, 'GET', '/v1/me'), 401, 'unauthenticated');
});

test('foreign tokens do not exist; own ones are listed without their secret', async () => {
  const eve = await server.person('eve');
  const { token } = await ada.client.createToken({ params: {}, body: {} });
  assertProblem(await server.ask(eve, 'DELETE', `/v1/tokens/${token.id}`), 404, 'not_found');
  const { items } = await ada.client.listTokens({ params: {} });
  assert.ok(items.some(({ id }) => id === token.id));
  assert.ok(!JSON.stringify(items).includes('carrel_'));
  assertProblem(await server.ask(eve, 'POST', '/v1/tokens', { body: { user: 'ada' } }), 403, 'forbidden');
});

test('an expired token is no token', async () => {
  const { token, secret } = await ada.client.createToken({ params: {}, body: { days: 1 } });
  await server.store.db
    .updateTable('tokens')
    .set({ expires_at: new Date(Date.now() - 1000) })
    .where('id', '=', token.id)
    .execute();
  assertProblem(await server.ask({ ...ada, secret }, 'GET', '/v1/me'), 401, 'unauthenticated');
});

test('the access log has route, status and duration, and never a token or a query', async () => {
  await server.ask(ada, 'GET', '/v1/users?limit=7');
  const line = server.lines.findLast((text) => text.includes('"route":"/v1/users"'));
  assert.ok(line);
  assert.match(line, /"status":403,"ms":[\d.]+,"user":"ada"/);
  assert.ok(!server.lines.join('').includes('carrel_'));
  assert.ok(!line.includes('limit'));
});

test('lists come in pages that miss nothing', async () => {
  for (let index = 0; index < 7; index += 1) await server.person(`page-${index}`);
  const seen: string[] = [];
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<typeof admin.client.listUsers>> = await admin.client.listUsers({
      params: {},
      query: { limit: 3, ...(cursor !== null && { cursor }) },
    });
    seen.push(...page.items.map(({ name }) => name));
    cursor = page.next;
  } while (cursor !== null);
  assert.equal(new Set(seen).size, seen.length);
  assert.ok([0, 1, 2, 3, 4, 5, 6].every((index) => seen.includes(`page-${index}`)));
  assertProblem(await server.ask(admin, 'GET', '/v1/users?cursor=nonsense'), 422, 'validation_failed');
});

test('too many requests are told when to come back', async () => {
  const limited = await startTestServer(cluster, { app: { rate: { perSecond: 5, burst: 3 } } });
  try {
    const person = await limited.person('quick');
    const answers = [];
    for (let index = 0; index < 5; index += 1) answers.push(await limited.ask(person, 'GET', '/v1/me'));
    const refused = answers.find(({ status }) => status === 429);
    assert.ok(refused);
    assertProblem(refused, 429, 'quota_exceeded');
    assert.equal(refused.headers.get('retry-after'), '1');
  } finally {
    await limited.close();
  }
});

test('a write that names another version is refused: no update is lost', async () => {
  await admin.client.createCourse({ params: {}, body: { name: 'os', title: 'first' } });
  const read = await server.ask(admin, 'GET', '/v1/courses/os');
  const etag = read.headers.get('etag') ?? '';
  assert.match(etag, /^"\d+"$/);
  const change = (title: string) =>
    server.ask(admin, 'PATCH', '/v1/courses/os', { body: { title }, headers: { 'if-match': etag } });
  const answers = await Promise.all(['second', 'third', 'fourth'].map(change));
  assert.equal(answers.filter(({ status }) => status === 200).length, 1);
  for (const answered of answers) if (answered.status !== 200) assertProblem(answered, 412, 'etag_mismatch');
  const winner = answers.find(({ status }) => status === 200);
  assert.notEqual(winner?.headers.get('etag'), etag);
  const weak = { 'if-match': `W/${winner?.headers.get('etag')}` };
  assert.equal(
    (await server.ask(admin, 'PATCH', '/v1/courses/os', { body: { title: 'x' }, headers: weak })).status,
    412,
  );
  const known = await server.ask(admin, 'GET', '/v1/courses/os', {
    headers: { 'if-none-match': winner?.headers.get('etag') ?? '' },
  });
  assert.equal(known.status, 304);
});

test('two instructors who change one member at once: the second one is told', async () => {
  await admin.client.createCourse({ params: {}, body: { name: 'members', title: 'x' } });
  const path = '/v1/courses/members/members/ada';
  const set = (section: string, ifMatch?: string) =>
    server.ask(admin, 'PUT', path, {
      body: { role: 'student', section },
      headers: ifMatch === undefined ? {} : { 'if-match': ifMatch },
    });
  assertProblem(await set('A', '"of-somebody-who-is-no-member"'), 412, 'etag_mismatch');
  assertProblem(await server.ask(admin, 'GET', path), 404, 'not_found');
  const added = await set('A');
  const etag = added.headers.get('etag') ?? '';
  assert.equal((await server.ask(admin, 'GET', path)).headers.get('etag'), etag);
  const both = await Promise.all([set('B', etag), set('C', etag)]);
  assert.deepEqual(
    both.map(({ status }) => status).toSorted((a, b) => a - b),
    [200, 412],
  );
  const stale = { headers: { 'if-match': etag } };
  assertProblem(await server.ask(admin, 'DELETE', path, stale), 412, 'etag_mismatch');
  const fresh = (await server.ask(admin, 'GET', path)).headers.get('etag') ?? '';
  assert.equal((await server.ask(admin, 'DELETE', path, { headers: { 'if-match': fresh } })).status, 204);
});

test('a condition that an operation would not look at is refused, not passed over', async () => {
  const headers = { 'if-match': '"1"' };
  const made = await server.ask(admin, 'POST', '/v1/courses', {
    body: { name: 'conditional', title: 'x' },
    headers,
  });
  assertProblem(made, 400, 'invalid_request');
  const account = { body: { name: 'conditional' }, headers };
  assertProblem(await server.ask(admin, 'POST', '/v1/users', account), 400, 'invalid_request');
  assert.equal((await server.ask(admin, 'GET', '/v1/courses', { headers })).status, 200);
});

test('the OpenAPI document is served', async () => {
  const { status, body } = await server.ask(undefined, 'GET', '/openapi.json');
  assert.equal(status, 200);
  assert.ok(JSON.stringify(body).startsWith('{"openapi":"3.1.0"'));
});
