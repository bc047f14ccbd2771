/**
 * What nobody should hand in, to a real cloud: archives that would escape, fill the disk, or never end. Each is
 * refused with a code and a sentence, leaves nothing in the data directory, and the daemon stays small.
 * (Names, unknown fields and broken HTTP: src/server/http/hostile.test.ts.)
 */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { collectFiles, pack } from '#cli/archive.ts';
import { problem, type Problem } from '#contract/schemas/common.ts';
import { tarOf, zipOf, type RawMember } from '#images/testing.ts';
import { memoryOf, startCloud, whyNoCloud, type Cloud, type Person } from './harness/cloud.ts';

const skip = whyNoCloud() ?? false;
const folder = fileURLToPath(new URL('labs/arithmetic', import.meta.url));
const MiB = 2 ** 20;

/** What the daemon may grow by, whatever is sent: its heap's own ups and downs, not the upload. */
const growthLimit = 200 * MiB;

const types = { tar: 'application/x-tar', gzip: 'application/gzip', zip: 'application/zip' } as const;

interface Attack {
  readonly name: string;
  readonly type: keyof typeof types;
  readonly bytes: () => Uint8Array;
  readonly code: string;
  readonly sentence: RegExp;
}

const manyEntries = (): Uint8Array =>
  tarOf(...Array.from({ length: 100_000 }, (_, index) => ({ path: `f${index}`, body: '' })));

const answer: RawMember = { path: 'answer.sh', body: 'echo 42\n' };

function member(name: string, bad: RawMember, sentence: RegExp, code = 'invalid_archive'): Attack {
  return { name, type: 'tar', bytes: () => tarOf(answer, bad), code, sentence };
}

const attacks: readonly Attack[] = [
  member('a path that climbs out', { path: '../../escaped', body: 'x' }, /climbs out/),
  member('an absolute path', { path: '/tmp/escaped', body: 'x' }, /absolute/),
  member('a symbolic link', { path: 'link', flag: '2', link: '/etc/passwd' }, /link/),
  member('a hard link', { path: 'hard', flag: '1', link: 'answer.sh' }, /link/),
  member('a character device', { path: 'null', flag: '3' }, /device/),
  member('a block device', { path: 'disk', flag: '4' }, /device/),
  member('a fifo', { path: 'pipe', flag: '6' }, /fifo|pipe/i),
  member('a name of two lines', { path: 'two', pax: { path: 'two\nlines' }, body: 'x' }, /control character/),
  member(
    'a name of 300 characters',
    { path: 'n'.repeat(300), pax: { path: 'n'.repeat(300) }, body: 'x' },
    /longer/,
  ),
  member(
    'a file that says it is 8 GiB',
    { path: 'answer.sh', size: 0o77777777777, body: 'x' },
    /./,
    'too_large',
  ),
  {
    name: 'a hundred thousand entries',
    type: 'tar',
    bytes: manyEntries,
    code: 'too_large',
    sentence: /entries|larger/,
  },
  {
    name: 'a hundred thousand entries in little space',
    type: 'gzip',
    bytes: () => gzipSync(manyEntries()),
    code: 'too_large',
    sentence: /entries|grows/,
  },
  {
    name: 'a gzip bomb',
    type: 'gzip',
    bytes: () => gzipSync(tarOf({ path: 'answer.sh', body: Buffer.alloc(200 * MiB) })),
    code: 'too_large',
    sentence: /larger|grows/,
  },
  {
    name: 'a zip bomb',
    type: 'zip',
    bytes: () => zipOf([{ path: 'answer.sh', body: Buffer.alloc(200 * MiB) }]),
    code: 'too_large',
    sentence: /larger|grows/,
  },
  {
    name: 'a zip with a symbolic link',
    type: 'zip',
    bytes: () => zipOf([{ path: 'answer.sh', body: '/etc/passwd', unixMode: 0o120777 }]),
    code: 'invalid_archive',
    sentence: /link/,
  },
  {
    name: 'a zip that is said to be a tar',
    type: 'tar',
    bytes: () => zipOf([{ path: 'answer.sh', body: 'echo 42\n' }]),
    code: 'invalid_archive',
    sentence: /./,
  },
  {
    name: 'half an archive',
    type: 'tar',
    bytes: () => tarOf({ path: 'answer.sh', body: 'x'.repeat(3000) }).subarray(0, 1500),
    code: 'invalid_archive',
    sentence: /./,
  },
];

/**
 * Posts a body in chunks over a bare connection, so that the answer is read even when the server stops reading:
 * an HTTP client would only see that it could not write on.
 */
async function post(
  base: string,
  { path, token, type, body }: { path: string; token: string; type: string; body: Iterable<Uint8Array> },
): Promise<{ readonly status: number; readonly said: Problem }> {
  const { hostname, port } = new URL(base);
  const socket = connect({ host: hostname, port: Number(port) });
  let reply = '';
  socket.setTimeout(60_000, () => socket.destroy());
  socket.on('error', () => undefined); // cut off while sending
  socket.on('data', (chunk: Buffer) => (reply += chunk.toString()));
  const closed = new Promise((resolve) => socket.once('close', resolve));
  const drained = (): Promise<unknown> =>
    Promise.race([closed, new Promise((resolve) => socket.once('drain', resolve))]);
  const head = [
    `POST ${path} HTTP/1.1`,
    `Host: ${hostname}`,
    `Authorization: Bearer ${token}`,
    `Content-Type: ${type}`,
    'Transfer-Encoding: chunked',
    'Connection: close',
  ];
  socket.write(`${head.join('\r\n')}\r\n\r\n`);
  for (const bytes of body) {
    if (socket.destroyed || reply !== '') break;
    socket.write(`${bytes.length.toString(16)}\r\n`);
    socket.write(bytes);
    if (!socket.write('\r\n')) await drained();
  }
  if (!socket.destroyed && reply === '') socket.write('0\r\n\r\n');
  await closed;
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(reply)?.[1]);
  const json = reply.slice(reply.indexOf('{'), reply.lastIndexOf('}') + 1);
  assert.ok(json !== '', `an answer with a sentence, not ${JSON.stringify(reply)}`);
  return { status, said: problem.parse(JSON.parse(json)) };
}

/** Every file of the data directory but for the database, logs and run files, with its size. */
async function filesOf(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const part of ['blobs', 'labs', 'machines', 'run/grading'])
    for (const entry of await readdir(join(directory, part), { recursive: true }).catch(() => []))
      found.push(`${part}/${entry}`);
  return found.toSorted();
}

suite('bad uploads to a real cloud', { skip, concurrency: false, timeout: 180_000 }, () => {
  let cloud: Cloud;
  let student: Person;
  let submissions: string;
  const imports = '/v1/courses/bad/labs?name=attack';
  let files: string[];
  let baseline: number;

  before(async () => {
    cloud = await startCloud();
    student = await cloud.person('mallory');
    const { admin } = cloud;
    await admin.createCourse({ params: {}, body: { name: 'bad', title: 'Bad input' } });
    await admin.setMember({
      params: { course: 'bad', user: 'mallory' },
      body: { role: 'student', section: null },
    });
    const bytes = await pack(await collectFiles([folder], folder));
    const { id } = await admin.importLab({ params: { course: 'bad' }, query: {}, bytes });
    await admin.changeLab({ params: { lab: id }, body: { released: true } });
    submissions = `/v1/labs/${id}/submissions`;
    files = await filesOf(cloud.directory);
    baseline = memoryOf((await cloud.untilWell()).daemon).now;
  });
  after(async () => {
    await cloud[Symbol.asyncDispose]();
  });

  const tokenFor = (path: string): string => (path === submissions ? student.token : cloud.adminToken);

  const send = (path: string, type: string, body: Iterable<Uint8Array>) =>
    post(cloud.url, { path, token: tokenFor(path), type, body });

  const nothingLeft = async (): Promise<void> => {
    assert.deepEqual(await filesOf(cloud.directory), files, 'nothing is left in the data directory');
    const { daemon } = cloud.pids();
    assert.ok(daemon !== undefined);
    const { now } = memoryOf(daemon);
    assert.ok(now < baseline + growthLimit, `the daemon has grown from ${baseline} to ${now} bytes`);
  };

  for (const { name, type, bytes, code, sentence } of attacks)
    test(`${name} is refused, as a submission and as a lab`, async () => {
      const body = bytes();
      for (const path of [submissions, imports]) {
        const { status, said } = await send(path, types[type], [body]);
        assert.deepEqual([status >= 400 && status < 500, said.code], [true, code], `${path}: ${said.detail}`);
        assert.match(said.detail, sentence);
      }
      await nothingLeft();
    });

  for (const kind of ['submission', 'lab'])
    test(`an upload of 2 GiB that does not say so is cut off early: ${kind}`, async () => {
      const path = kind === 'lab' ? imports : submissions;
      const chunk = Buffer.alloc(MiB, tarOf({ path: 'big', body: 'x'.repeat(512) }).subarray(0, 1024));
      let sent = 0;
      const endless = (function* () {
        for (; sent < 2048; sent += 1) yield chunk;
      })();
      const { status, said } = await send(path, types.tar, endless);
      assert.ok(sent < 200, `${sent} MiB were taken`);
      assert.deepEqual([status >= 400 && status < 500, said.detail.length > 0], [true, true]);
      await nothingLeft();
    });

  test('an honest submission is still taken and graded in full', async () => {
    const directory = join(folder, 'solutions', 'right');
    const bytes = await pack(await collectFiles([directory], directory));
    const lab = submissions.split('/')[3] ?? '';
    const { submission, job } = await student.client.submit({ params: { lab }, bytes });
    await student.client.getJob({ params: { job: job.id }, query: { wait: 30 } });
    const graded = await student.client.getSubmission({ params: { submission: submission.id } });
    assert.deepEqual([graded.grading, graded.points], ['graded', 6]);
    const { items } = await student.client.listSubmissions({ params: { lab }, query: {} });
    assert.equal(items.length, 1, 'what was refused is no attempt');
    const labs = await cloud.admin.listLabs({ params: { course: 'bad' }, query: {} });
    assert.deepEqual(
      labs.items.map(({ name }) => name),
      ['arithmetic'],
    );
    assert.deepEqual(await cloud.down(), []);
  });
});
