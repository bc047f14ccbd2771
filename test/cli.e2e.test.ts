/** The command line against a real cloud: started, used as its people use it, stopped, nothing left. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { within } from '#base/deadline.ts';
import { dangling, takeCensus, type Census } from '#test/harness/census.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'src/cli/main.ts');

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string;
  readonly cwd?: string;
  /** A terminal on both sides, made by script(1); what it shows is standard output. */
  readonly terminal?: boolean;
}

const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

async function carrel(
  args: readonly string[],
  { env = {}, input = '', cwd = root, terminal = false }: RunOptions = {},
): Promise<Ran> {
  const command = [process.execPath, '--disable-warning=ExperimentalWarning', main, ...args];
  const argv = terminal ? ['script', '-qec', command.map(quote).join(' '), '/dev/null'] : command;
  const child = spawn(argv[0] ?? '', argv.slice(1), { cwd, env: { ...process.env, NO_COLOR: '1', ...env } });
  child.stdin.end(input);
  const [stdout, stderr] = await within(
    240_000,
    `carrel ${args.join(' ')}`,
    Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]),
  );
  return { status: child.exitCode, stdout, stderr };
}

/** Runs as the administrator; the result as JSON. */
async function json<T>(schema: z.ZodType<T>, args: readonly string[], options: RunOptions = {}): Promise<T> {
  const { status, stdout, stderr } = await carrel([...args, '--json'], options);
  assert.equal(status, 0, `carrel ${args.join(' ')}: ${stderr}`);
  return schema.parse(JSON.parse(stdout));
}

const isRoot = process.getuid?.() === 0;

suite('a cloud from the command line', { skip: isRoot ? false : 'needs root', concurrency: false }, () => {
  let directory = '';
  let data = '';
  let base: Census | undefined;
  const tokens = new Map<string, string>();
  const as = (name: string): NodeJS.ProcessEnv => ({
    CARREL_URL: url,
    CARREL_TOKEN: tokens.get(name) ?? '',
  });
  let url = '';

  before(async () => {
    directory = await realpath(await mkdtemp(join(tmpdir(), 'carrel-e2e-')));
    // the database's own user passes through it
    await chmod(directory, 0o755);
    data = join(directory, 'data');
    await mkdir(data);
    base = await takeCensus(data);
    process.env['CARREL_DATA'] = data;
    process.env['XDG_CONFIG_HOME'] = join(directory, 'config');
    const { status, stdout, stderr } = await carrel([
      'up',
      '--detach',
      '--listen',
      '127.0.0.1:0',
      '--data',
      data,
    ]);
    assert.equal(status, 0, stderr);
    url = /http:\/\/127\.0\.0\.1:\d+/.exec(stdout)?.[0] ?? '';
    assert.notEqual(url, '', stdout);
  });

  after(async () => {
    await carrel(['down', '--grace', '0', '--data', data]);
    await rm(directory, { recursive: true, force: true });
  });

  test('up again only says that it is up; status shows its processes', async () => {
    const again = await carrel(['up']);
    assert.equal(again.status, 0, again.stderr);
    assert.match(again.stderr, /running already/);
    const status = await json(
      z.looseObject({ up: z.boolean(), processes: z.array(z.looseObject({ role: z.string() })) }),
      ['status'],
    );
    const roles = new Set(status.processes.map(({ role }) => role));
    assert.deepEqual(status.up, true);
    for (const role of ['doorman', 'daemon', 'database', 'runtime', 'holder'])
      assert.ok(roles.has(role), role);
  });

  test('errors have a sentence, a hint and an exit code; with --json a problem', async () => {
    const missing = await carrel(['machine', 'show', 'nowhere']);
    assert.equal(missing.status, 3);
    assert.match(missing.stderr, /^carrel: /);
    const problem = await carrel(['machine', 'show', 'nowhere', '--json']);
    assert.equal(z.looseObject({ code: z.string() }).parse(JSON.parse(problem.stderr)).code, 'not_found');
    assert.equal((await carrel(['user', 'add', 'Not A Name'])).status, 2);
    const stranger = await carrel(['whoami'], { env: { CARREL_URL: url, CARREL_TOKEN: 'wrong' } });
    assert.equal(stranger.status, 3);
    const nobody = await carrel(['whoami'], { env: { CARREL_URL: 'http://127.0.0.1:1', CARREL_TOKEN: 'x' } });
    assert.equal(nobody.status, 4);
  });

  test('an instructor makes a course from a roster; who is who is kept apart', async () => {
    for (const name of ['teacher', 'pupil', 'other']) {
      const [made] = await json(z.array(z.looseObject({ token: z.string() })), [
        'user',
        'add',
        name,
        '--token',
      ]);
      tokens.set(name, made?.token ?? '');
    }
    assert.equal((await carrel(['user', 'add', 'pupil'])).status, 5);
    assert.equal(
      (await carrel(['course', 'new', 'os', '--title', 'Operating systems', '--instructor', 'teacher']))
        .status,
      0,
    );
    const roster = join(directory, 'roster.csv');
    await writeFile(roster, 'name,role,section\npupil,student,A\nother,student,B\n');
    const added = await carrel(['member', 'add', 'os', '--file', roster], { env: as('teacher') });
    assert.equal(added.status, 0, added.stderr);
    assert.match(added.stdout, /pupil +student +A/);
    assert.equal((await carrel(['member', 'ls', 'os'], { env: as('pupil') })).status, 3);
  });

  test('a login is saved for its owner only', async () => {
    const login = await carrel(['login', url], { input: `${tokens.get('pupil')}\n` });
    assert.equal(login.status, 0, login.stderr);
    const { status, stdout } = await carrel(['whoami'], { env: { CARREL_DATA: undefined } });
    assert.equal(status, 0);
    assert.match(stdout, /^pupil at http/);
    assert.equal((await carrel(['logout'])).status, 0);
  });

  test('a lab goes from folder to mark', async () => {
    const lab = join(root, 'labs/reach-number');
    const imported = await carrel(['lab', 'import', 'os', lab, '--release', '--due', '+7d'], {
      env: as('teacher'),
    });
    assert.equal(imported.status, 0, imported.stderr);
    const list = await carrel(['lab', 'ls'], { env: as('pupil') });
    assert.match(list.stdout, /os\/reach-number/);

    const start = await carrel(['lab', 'start-files', 'reach-number', join(directory, 'start')], {
      env: as('pupil'),
    });
    assert.equal(start.status, 0, start.stderr);
    assert.match(await readFile(join(directory, 'start/reach_number.py'), 'utf8'), /def /);

    const right = await carrel(['submit', 'reach-number', 'reach_number.py'], {
      env: as('pupil'),
      cwd: join(lab, 'solutions/closed-form'),
    });
    assert.equal(right.status, 0, right.stderr);
    assert.match(right.stderr, /Handed in: s-/);

    const missing = await carrel(['submit', 'reach-number', 'no-such-file.py'], { env: as('pupil') });
    assert.equal(missing.status, 3);
    assert.match(missing.stderr, /there is no file/);

    const book = await carrel(['gradebook', 'os/reach-number', '--csv'], { env: as('teacher') });
    assert.match(book.stdout, /^pupil,A,1,s-\w+,[^,]+,no,graded,10,10,/m);
    assert.equal((await carrel(['gradebook', 'reach-number'], { env: as('pupil') })).status, 3);

    const submission = /s-\w{12}/.exec(right.stderr)?.[0] ?? '';
    assert.equal((await carrel(['grade', 'show', submission], { env: as('other') })).status, 3);
    const download = await carrel(['submission', 'download', submission, join(directory, 'back')], {
      env: as('pupil'),
    });
    assert.equal(download.status, 0, download.stderr);
    assert.equal(
      await readFile(join(directory, 'back/reach_number.py'), 'utf8'),
      await readFile(join(lab, 'solutions/closed-form/reach_number.py'), 'utf8'),
    );
    const regrade = await carrel(['regrade', 'reach-number'], { env: as('teacher') });
    assert.equal(regrade.status, 0, regrade.stderr);
    assert.match(regrade.stdout, /1 of 1 graded/);
    assert.match(regrade.stdout, /No points have changed/);
  });

  test('a machine is made, used, and its programs’ exit status is ours', async () => {
    const made = await carrel(['machine', 'new', 'box', '--image', 'busybox'], { env: as('pupil') });
    assert.equal(made.status, 0, made.stderr);
    const run = await carrel(['m', 'run', 'box', 'sh', '-c', 'hostname; echo wrong >&2; exit 7'], {
      env: as('pupil'),
    });
    assert.deepEqual(run, { status: 7, stdout: 'box\n', stderr: 'wrong\n' });
    const piped = await carrel(['m', 'run', '--stdin', 'box', 'cat'], { env: as('pupil'), input: 'through' });
    assert.equal(piped.stdout, 'through');
    assert.equal(
      (await carrel(['m', 'put', 'box', '-', '/tmp/file'], { env: as('pupil'), input: 'hello' })).status,
      0,
    );
    assert.equal((await carrel(['m', 'get', 'box', '/tmp/file', '-'], { env: as('pupil') })).stdout, 'hello');
    assert.equal((await carrel(['m', 'show', 'box'], { env: as('other') })).status, 3);
  });

  test('a program on a terminal has one, and ends with its status', async () => {
    const { status, stdout } = await carrel(['machine', 'exec', '-t', 'box', 'sh', '-c', 'tty; exit 5'], {
      env: { ...as('pupil'), TERM: 'xterm' },
      terminal: true,
    });
    assert.match(stdout, /\/dev\/pts\/\d+/);
    assert.equal(status, 5);
  });

  test('Ctrl-] leaves a program, and --attach finds it again with all it said', async () => {
    const left = await carrel(
      ['machine', 'exec', '-t', 'box', 'sh', '-c', 'echo before; sleep 1; echo after'],
      {
        env: as('pupil'),
        terminal: true,
        input: '\u001D',
      },
    );
    assert.equal(left.status, 0, left.stdout);
    const exec = /x-\w{12}/.exec(left.stdout)?.[0];
    assert.ok(exec, left.stdout);
    const back = await carrel(['machine', 'exec', '--attach', exec, 'box'], { env: as('pupil') });
    assert.match(back.stdout, /before\r?\nafter/);
    assert.equal(back.status, 0, back.stderr);
  });

  test('down ends everything, and says so; nothing dangles', async () => {
    const { status, stdout, stderr } = await carrel(['down', '--grace', '0']);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /nothing is left running/);
    assert.ok(base);
    assert.deepEqual(dangling(base, await takeCensus(data)), []);
    assert.equal((await carrel(['status'])).status, 4);
    assert.equal((await carrel(['down'])).status, 0);
  });
});
