/** What nobody should send. Each is refused with a code and a sentence; memory and connections stay bounded. */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { after, before, test } from 'node:test';
import { assert as holds, asyncProperty, json } from 'fast-check';
import { problem } from '#contract/schemas/common.ts';
import { fileQuery } from '#contract/schemas/machines.ts';
import type { TestCluster } from '#store/testing.ts';
import {
  startTestCluster,
  startTestServer,
  stubHandlers,
  type Answered,
  type Person,
  type TestServer,
} from '../testing.ts';

let cluster: TestCluster;
let server: TestServer;
let admin: Person;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster, {
    app: { checkReplies: false },
    limits: { headersMs: 300, requestMs: 1500, idleMs: 3000, checkEveryMs: 100 },
    handlers: () => ({
      ...stubHandlers(),
      async importImage({ bytes }) {
        for await (const chunk of bytes) assert.ok(chunk.length > 0);
        throw new Error('an upload that should have been refused was read to its end');
      },
    }),
  });
  admin = await server.person('admin', { admin: true });
});
after(async () => {
  await server.close();
  await cluster.close();
});

/** Posts to createMachine; gives status, code and what was said. */
async function post(body: unknown, headers: Record<string, string> = {}): Promise<[number, string, string]> {
  const { status, body: said } = await server.ask(admin, 'POST', '/v1/machines', { body, headers });
  if (status < 300) return [status, '', ''];
  const { code, detail } = problem.parse(said);
  return [status, code, detail];
}

test('unknown fields are refused with their path', async () => {
  const [status, code, detail] = await post({ name: 'a', limits: { cpus: 1, gpu: 4 } });
  assert.deepEqual([status, code, detail], [422, 'validation_failed', 'limits.gpu: unknown field']);
  const query = await server.ask(admin, 'GET', '/v1/machines?colour=red');
  assert.equal(query.status, 422);
  assert.match(problem.parse(query.body).detail, /^colour: unknown field/);
  assert.equal((await server.ask(admin, 'GET', '/v1/me?x=1')).status, 422);
  assert.equal((await server.ask(admin, 'GET', '/v1/machines?limit=1&limit=2')).status, 422);
});

test('names that could hurt are refused', async () => {
  const names = [
    '',
    'x'.repeat(300),
    'a\nb',
    'a\n',
    '../etc',
    'a/b',
    '-rf',
    'a b',
    'A',
    'ä',
    '.',
    '..',
    'a\0b',
    'a%0ab',
  ];
  for (const name of names) assert.equal((await post({ name }))[0], 422, JSON.stringify(name));
  assert.equal((await post({ name: 'fine' }))[0], 202);
});

const put = (path: string): Promise<Answered> =>
  server.ask(admin, 'PUT', `/v1/machines/m-000000000000/files?path=${encodeURIComponent(path)}`, {
    body: new Uint8Array([1]),
    headers: { 'content-type': 'application/octet-stream' },
  });

test('paths in a machine that climb, or that no screen shows, are refused', async () => {
  // access comes first, so the schema itself is asked too
  assert.equal((await put('../../etc/passwd')).status, 404);
  const bad = ['../x', '/a/../b', '/..', '..', 'a\nb', '/a\0', '/\u001b[2J', 'x'.repeat(5000), ''];
  for (const path of bad) assert.ok(!fileQuery.safeParse({ path }).success, JSON.stringify(path));
  for (const path of ['/etc/hosts', 'etc/hosts', '/a..b/..c', '/ä ö', '/-rf'])
    assert.ok(fileQuery.safeParse({ path }).success, JSON.stringify(path));
});

test('wrong types and numbers out of range are refused', async () => {
  const bodies = [
    null,
    [],
    '"text"',
    7,
    { name: 7 },
    { name: ['a'] },
    { name: 'a', start: 'yes' },
    { name: 'a', limits: { cpus: -1 } },
    { name: 'a', limits: { memoryBytes: 1e300 } },
    { name: 'a', limits: { processes: 10.5 } },
    { name: 'a', labels: { A: 'x' } },
    { name: 'a', labels: Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`k${index}`, ''])) },
    { name: 'a', ttlSeconds: 1 },
  ];
  for (const body of bodies) assert.equal((await post(body))[0], 422, JSON.stringify(body));
  assert.equal((await post('{"name":"a","limits":{"cpus":1e999}}'))[0], 422);
  assert.equal((await post('{"name":"a","limits":{"memoryBytes":99999999999999999999999}}'))[0], 422);
});

test('what is not JSON is 400, what is not said to be JSON is 415', async () => {
  for (const body of ['{', '{"name":"a"}x', "{'name':'a'}", '\u00ff', 'NaN', '{"name":"a",}', '\u{feff}x'])
    assert.deepEqual((await post(body)).slice(0, 2), [400, 'invalid_request'], body);
  assert.equal((await post(new Uint8Array([0x22, 0xff, 0xfe, 0x22])))[0], 400);
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', ''])
    assert.equal((await post('{"name":"a"}', { 'content-type': type }))[0], 415, type);
  assert.equal((await post('{"name":"a"}', { 'content-type': 'Application/JSON; charset=utf-8' }))[0], 202);
});

test('keys that change what objects are do nothing', async () => {
  assert.equal((await post('{"name":"a","__proto__":{"admin":true}}'))[0], 422);
  assert.equal((await post('{"name":"a","labels":{"__proto__":"x"}}'))[0], 422);
  assert.equal((await post('{"name":"a","constructor":{"prototype":{"x":1}}}'))[0], 422);
  assert.equal((await server.ask(admin, 'GET', '/v1/machines?__proto__=1')).status, 422);
  assert.equal(Object.getPrototypeOf({}), Object.prototype);
  assert.ok(!('admin' in {}));
});

test('JSON that is deep, or large in memory, is refused', async () => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  assert.deepEqual((await post(deep)).slice(0, 2), [422, 'validation_failed']);
  assert.equal((await post(`{"name":"a","labels":${'{"a":'.repeat(40)}1${'}'.repeat(40)}}`))[0], 422);
  assert.equal((await post(`[${'[],'.repeat(300_000)}[]]`))[0], 422);
  assert.deepEqual((await post(`"${'x'.repeat(2 ** 20 + 10)}"`)).slice(0, 2), [413, 'too_large']);
});

test('an operation without a body takes none', async () => {
  const { status } = await server.ask(admin, 'POST', '/v1/jobs/j-000000000000/cancel', { body: {} });
  assert.equal(status, 404); // access comes first: what does not exist is not validated
  assert.equal(
    (await server.ask(admin, 'DELETE', '/v1/images/debian-12', { body: { force: true } })).status,
    422,
  );
});

test('any JSON at all gets an answer of the right kind', async () => {
  await holds(
    asyncProperty(json({ maxDepth: 5 }), async (text) => {
      const [status] = await post(text);
      assert.ok([202, 422].includes(status), `${status} for ${text}`);
    }),
    { numRuns: 150 },
  );
});

/** Speaks HTTP by hand. */
function raw(text: string): { socket: Socket; closed: Promise<string> } {
  const socket = connect(server.port, '127.0.0.1');
  let said = '';
  socket.on('data', (data) => (said += data.toString('latin1')));
  socket.on('error', () => undefined);
  socket.write(text);
  return { socket, closed: new Promise((resolve) => socket.on('close', () => resolve(said))) };
}

const head = (lines: string[]): string =>
  [...lines, 'Host: x', `Authorization: Bearer ${admin.secret}`, '', ''].join('\r\n');

test('an upload that says it is too large is refused before it is sent', async () => {
  const { closed } = raw(
    head([
      'PUT /v1/machines/m-000000000000/files?path=/x HTTP/1.1',
      `Content-Length: ${2 ** 31}`,
      'Content-Type: application/octet-stream',
      'Connection: close',
    ]),
  );
  assert.match(await closed, /^HTTP\/1\.1 404/);
  const big = raw(
    head([
      'PUT /v1/images?name=a&format=tar HTTP/1.1',
      `Content-Length: ${2 ** 35}`,
      'Content-Type: application/octet-stream',
    ]),
  );
  const said = await big.closed;
  assert.match(said, /^HTTP\/1\.1 413/);
  assert.match(said, /"code":"too_large"/);
});

test('an endless upload is cut off at the limit, and memory stays where it was', async () => {
  const before = process.memoryUsage().rss;
  const { socket, closed } = raw(
    head(['POST /v1/users HTTP/1.1', 'Transfer-Encoding: chunked', 'Content-Type: application/json']),
  );
  const chunk = Buffer.concat([Buffer.from('40000\r\n'), Buffer.alloc(0x40000, 0x20), Buffer.from('\r\n')]);
  let sent = 0;
  while (!socket.destroyed && sent < 2 ** 31) {
    if (!socket.write(chunk))
      await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), closed]);
    sent += chunk.length;
  }
  assert.match(await closed, /^HTTP\/1\.1 413/);
  assert.ok(sent < 2 ** 28, `${sent} bytes were taken`);
  assert.ok(process.memoryUsage().rss - before < 200 * 2 ** 20);
});

test('who goes on sending after the refusal still gets it: the connection is not reset under the answer', async () => {
  const socket = connect(server.port, '127.0.0.1');
  socket.on('error', () => undefined);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  const sent = (bytes: Buffer | string): Promise<unknown> =>
    Promise.race([closed, new Promise((resolve) => socket.write(bytes, resolve))]);
  socket.pause(); // reads nothing until everything is sent
  const lines = ['POST /v1/users HTTP/1.1', 'Transfer-Encoding: chunked', 'Content-Type: application/json'];
  await sent(head([...lines, 'Connection: close']));
  const chunk = Buffer.concat([Buffer.from('40000\r\n'), Buffer.alloc(0x40000, 0x20), Buffer.from('\r\n')]);
  for (let index = 0; index < 64; index += 1) await sent(chunk);
  let said = '';
  socket.on('data', (data) => (said += data.toString('latin1')));
  socket.resume();
  await closed;
  assert.match(said, /^HTTP\/1\.1 413[\s\S]*"code":"too_large"/);
});

test('who sends his request drop by drop is cut off', async () => {
  const { socket, closed } = raw('GET /v1/health HTTP/1.1\r\n');
  const drip = setInterval(() => socket.write('X-A: b\r\n'), 50);
  try {
    assert.match(await closed, /^HTTP\/1\.1 408/);
  } finally {
    clearInterval(drip);
  }
});

test('who stops in the middle of a body is cut off', async () => {
  const { closed } = raw(
    head(['POST /v1/users HTTP/1.1', 'Content-Length: 100', 'Content-Type: application/json']) + '{"name":',
  );
  assert.match(await closed, /^HTTP\/1\.1 408/);
});

test('what is not HTTP gets 400 and a closed connection; smuggled requests too', async () => {
  assert.match(await raw('\x16\x03\x01\x02\x00hello\r\n\r\n').closed, /^HTTP\/1\.1 400/);
  const both = head(['POST /v1/users HTTP/1.1', 'Content-Length: 5', 'Transfer-Encoding: chunked']);
  assert.match(await raw(both).closed, /^HTTP\/1\.1 400/);
  assert.match(
    await raw(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(20_000)}\r\n\r\n`).closed,
    /^HTTP\/1\.1 431/,
  );
});
