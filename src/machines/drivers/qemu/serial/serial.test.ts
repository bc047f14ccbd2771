/** Real shells on a real pseudo-terminal, in all the states that people leave a console in. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { sleep, until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { makeMarker } from '#base/marker.ts';
import type { RunReply } from '#contract/schemas/machines.ts';
import type { Terminal } from '../../../driver.ts';
import { type AgentBed, request, skip as noAgent, startAgent } from '../agent/testing.ts';
import { askedFor } from './login.ts';
import { runOverSerial } from './run.ts';
import { resultIn } from './script.ts';

const busybox = '/bin/busybox';
const skip = noAgent === false && !existsSync(busybox) ? 'needs busybox-static' : noAgent;
const login = { user: 'root', password: 'secret' };
const text = ({ stdout }: RunReply): string => Buffer.from(stdout, 'base64').toString();

interface Console extends AsyncDisposable {
  readonly terminal: Terminal;
  readonly bed: AgentBed;
  screen(): string;
  run(argv: readonly string[], more?: Parameters<typeof request>[1]): Promise<RunReply>;
}

/** A program on a terminal of its own, which this test's agent keeps. */
async function openConsole(argv: readonly string[], env: Record<string, string> = {}): Promise<Console> {
  const bed = await startAgent();
  const variables = { HISTFILE: '/dev/null', HOME: bed.directory, ENV: '', PS1: '# ', ...env };
  const tty = { rows: 24, columns: 80 };
  await bed.agent.startKept('console', { argv, env: variables, cwd: '/', user: 'root', tty });
  const terminal = await bed.agent.attachKept('console');
  return {
    terminal,
    bed,
    screen: () => Buffer.from(terminal.read(0).bytes).toString(),
    run: (program, more) => runOverSerial(terminal, request(program, more), { login, limitMs: 30_000 }),
    async [Symbol.asyncDispose]() {
      terminal.close();
      await bed.agent.dropKept('console');
      await bed[Symbol.asyncDispose]();
    },
  };
}

const shells: readonly (readonly string[])[] = [
  ['/bin/bash', '--norc', '-i'],
  ['/bin/dash', '-i'],
  [busybox, 'ash', '-i'],
];

for (const shell of shells) {
  const name = shell.slice(0, 2).join(' ');
  test(`${name}: status, bytes of any kind, odd arguments and variables`, { skip }, async () => {
    await using console = await openConsole(shell);
    const odd = `a 'b' "c" $HOME \\n \`x\` ü\n!end`;
    const reply = await console.run(
      ['/bin/sh', '-c', 'printf "%s|%s|" "$1" "$V"; pwd; echo err >&2; exit 3', 'sh', odd],
      {
        env: { V: "it's $odd" },
        cwd: '/tmp',
      },
    );
    assert.equal(text(reply), `${odd}|it's $odd|/tmp\nerr\n`);
    assert.deepEqual(reply.end, { kind: 'exited', status: 3 });
    assert.equal(reply.stderr, '');
    const bytes = randomBytes(50_000);
    writeFileSync(join(console.bed.directory, 'bytes'), bytes);
    const raw = await console.run(['cat', join(console.bed.directory, 'bytes')]);
    assert.ok(Buffer.from(raw.stdout, 'base64').equals(bytes));
  });

  test(
    `${name}: a program that reads gets end-of-file, one that takes too long is killed with what it started`,
    { skip },
    async () => {
      await using console = await openConsole(shell);
      assert.equal(text(await console.run(['/bin/sh', '-c', 'cat; echo done'])), 'done\n');
      const script = "trap '' INT QUIT; sleep 1000 & echo begun; sleep 1000";
      const { end, stdout } = await console.run(['/bin/sh', '-c', script], { limitMs: 700 });
      assert.deepEqual(end, { kind: 'killed', reason: 'wall' });
      assert.equal(Buffer.from(stdout, 'base64').toString(), 'begun\n');
      assert.equal(text(await console.run(['echo', 'still here'])), 'still here\n');
    },
  );

  test(
    `${name}: works with a half-typed line, an open quotation, a program in the way, a screen of junk`,
    { skip },
    async () => {
      await using console = await openConsole(shell);
      await console.terminal.write(Buffer.from('rm -rf /nowhere half a li'));
      assert.equal(text(await console.run(['echo', '1'])), '1\n');
      await console.terminal.write(Buffer.from('echo "open\r'));
      assert.equal(text(await console.run(['echo', '2'])), '2\n');
      await console.terminal.write(Buffer.from('cat\r'));
      assert.equal(text(await console.run(['echo', '3'])), '3\n');
      await console.terminal.write(Buffer.from('while :; do echo junk login: ; sleep 0.01; done\r'));
      await sleep(200);
      assert.equal(text(await console.run(['echo', '4'])), '4\n');
    },
  );
}

test('a program that asks for a login again and again is no login', { skip }, async () => {
  await using console = await openConsole(['/bin/dash', '-i']);
  await console.terminal.write(Buffer.from("while :; do printf '\\nvm login: '; sleep 0.4; done\r"));
  await sleep(300);
  assert.equal(text(await console.run(['echo', '5'])), '5\n');
});

test('what is typed while a program runs does not get into its output', { skip }, async () => {
  await using console = await openConsole(['/bin/bash', '--norc', '-i']);
  const running = console.run(['/bin/sh', '-c', 'for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done']);
  const stop = new AbortController();
  const typist = (async () => {
    while (!stop.signal.aborted) {
      await console.terminal.write(Buffer.from('echo typed\r'));
      await sleep(15);
    }
  })();
  const reply = await running;
  stop.abort();
  await typist;
  assert.equal(text(reply), [1, 2, 3, 4, 5, 6].map((i) => `line ${i}\n`).join(''));
  await sleep(200);
  assert.equal(text(await console.run(['echo', 'after'])), 'after\n');
});

test('a program that shows the screen again, prompts included, fools nobody', { skip }, async () => {
  await using console = await openConsole(['/bin/bash', '--norc', '-i']);
  assert.equal(text(await console.run(['echo', 'first'])), 'first\n');
  const copy = join(console.bed.directory, 'screen');
  writeFileSync(copy, `${console.screen()}\nweb login: \n# `);
  // to the terminal itself, not to its output; and to its output
  const tty =
    /\/dev\/pts\/\d+/.exec(
      text(await console.run(['/bin/sh', '-c', 'readlink /proc/$PPID/fd/1; ls -l /proc/$PPID/fd'])),
    )?.[0] ?? '';
  assert.match(tty, /pts/);
  const reply = await console.run(['/bin/sh', '-c', `cat ${copy} > ${tty}; cat ${copy}; exit 9`]);
  assert.deepEqual(reply.end, { kind: 'exited', status: 9 });
  assert.match(text(reply), /web login: \n# $/);
});

test('output over the limit is cut there, and a flood is stopped', { skip }, async () => {
  await using console = await openConsole(['/bin/dash', '-i']);
  const reply = await console.run(['yes'], { outputBytes: 5000, limitMs: 20_000 });
  assert.deepEqual(reply.end, { kind: 'killed', reason: 'output' });
  assert.equal(Buffer.from(reply.stdout, 'base64').length, 5000);
});

test('a daemon that a program leaves behind does not hold up its end', { skip }, async () => {
  await using console = await openConsole(['/bin/bash', '--norc', '-i']);
  const reply = await console.run(['/bin/sh', '-c', 'sleep 3 & echo left']);
  assert.equal(text(reply), 'left\n');
  assert.deepEqual(reply.end, { kind: 'exited', status: 0 });
});

test('programs on one console wait for each other; one that is cancelled is killed', { skip }, async () => {
  await using console = await openConsole(['/bin/bash', '--norc', '-i']);
  const replies = await Promise.all([1, 2, 3].map((i) => console.run(['echo', String(i)])));
  assert.deepEqual(replies.map(text), ['1\n', '2\n', '3\n']);
  const cancel = new AbortController();
  const mark = join(console.bed.directory, 'runs');
  const pending = runOverSerial(console.terminal, request(['/bin/sh', '-c', `touch ${mark}; sleep 1000`]), {
    login,
    limitMs: 30_000,
    signal: cancel.signal,
  });
  await until(20_000, 'the program to run', () => (existsSync(mark) ? true : undefined));
  cancel.abort();
  assert.deepEqual((await pending).end, { kind: 'killed', reason: 'cancelled' });
});

test('a machine without base64 shows bytes in hexadecimal', { skip }, async () => {
  const bed = await startAgent();
  const bin = join(bed.directory, 'bin');
  await bed[Symbol.asyncDispose]();
  mkdirSync(bin, { recursive: true });
  const links = 'sh cat od head wc mktemp rm sleep setsid stty printf readlink';
  const setup = `for i in ${links}; do /bin/ln -s ${busybox} ${bin}/$i; done; PATH=${bin}; export PATH; exec /bin/dash -i`;
  await using console = await openConsole(['/bin/dash', '-c', setup]);
  const bytes = randomBytes(1000);
  writeFileSync(join(bin, 'data'), bytes);
  const reply = await console.run(['cat', join(bin, 'data')]);
  assert.ok(Buffer.from(reply.stdout, 'base64').equals(bytes));
  await console.run([busybox, 'rm', '-r', bed.directory]);
  assert.ok(!existsSync(bin));
});

/** getty(8) and login(1), as far as a terminal shows them. */
const getty = (refusal: string): string => `
while :; do
  printf '\\nDebian GNU/Linux 12 web ttyS0\\n\\nweb login: '
  read -r user || exit
  stty -echo; printf 'Password: '; read -r password; stty echo; printf '\\n'
  if [ "$user:$password" = root:secret ]; then /bin/bash --norc -i; else sleep 0.2; echo '${refusal}'; fi
done`;

for (const refusal of ['Login incorrect', 'login: bad salt'])
  test(
    `a login prompt is answered; a wrong password is said, also in other words: ${refusal}`,
    { skip },
    async () => {
      await using console = await openConsole(['/bin/bash', '-c', `trap : INT; ${getty(refusal)}`]);
      await until(5000, 'the prompt', () => (console.screen().endsWith('login: ') ? true : undefined));
      const wrong = { user: 'root', password: 'wrong' };
      await assert.rejects(
        runOverSerial(console.terminal, request(['true']), { login: wrong, limitMs: 10_000 }),
        (error) => isCarrelError(error, 'forbidden'),
      );
      assert.equal(text(await console.run(['echo', 'in'])), 'in\n');
      await console.terminal.write(Buffer.from('exit\r'));
      await sleep(300);
      await console.terminal.write(Buffer.from('somebody els'));
      assert.equal(text(await console.run(['echo', 'in again'])), 'in again\n');
    },
  );

test('a console where nobody answers costs the time that was given', { skip }, async () => {
  await using console = await openConsole([
    '/bin/sh',
    '-c',
    "trap '' INT QUIT; stty -echo; while :; do read -r x; done",
  ]);
  await assert.rejects(runOverSerial(console.terminal, request(['true']), { login, limitMs: 500 }), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
});

test('prompts are told from text that only looks like them', () => {
  assert.equal(askedFor('Debian 12\r\n\r\nweb login: '), 'user');
  assert.equal(askedFor('login: '), 'user');
  assert.equal(askedFor('\r\nLast login: '), 'unknown');
  assert.equal(askedFor('web login: \r\n# '), 'unknown');
  assert.equal(askedFor('root\r\nPassword: '), 'password');
  assert.equal(askedFor("root@web's password: "), 'password');
  assert.equal(askedFor('\u001b[?2004hroot@web:~# '), 'unknown');
});

test('a screen that is made to be slow to understand costs nothing', () => {
  // each of them begins a control sequence that never ends: looked at one by one, this takes hours
  const begun = '\u001b]'.repeat(2 ** 21);
  assert.equal(askedFor(begun), 'unknown');
  assert.equal(askedFor(`${begun}\u0007\nweb login: `), 'user');
  assert.equal(askedFor(`\u001b[${'0;'.repeat(2 ** 21)}`), 'unknown');
});

test('damaged output is an error, and never a result', () => {
  const markers = { begin: makeMarker(), end: makeMarker() };
  const shown = (bytes: Uint8Array): string =>
    `# stuff\r\n${markers.begin.text} 0 ${bytes.length} 0 ${bytes.length}\r\n${(
      Buffer.from(bytes)
        .toString('base64')
        .match(/.{1,76}/g) ?? []
    ).join('\r\n')}\r\n\r\n${markers.end.text}\r\n# `;
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 400 }),
      fc.nat(),
      fc.string({ minLength: 1, maxLength: 8 }),
      (bytes, where, noise) => {
        const plain = shown(bytes);
        const whole = resultIn(plain, markers, { coding: 'base64', most: 1000 });
        assert.ok(whole?.output.equals(bytes));
        const at = where % plain.length;
        let damaged: ReturnType<typeof resultIn>;
        try {
          damaged = resultIn(plain.slice(0, at) + noise + plain.slice(at), markers, {
            coding: 'base64',
            most: 1000,
          });
        } catch (error) {
          assert.ok(isCarrelError(error, 'helper_failed'));
          return;
        }
        if (damaged) assert.ok(damaged.output.equals(bytes));
      },
    ),
    { numRuns: 1000 },
  );
});

test('nothing is left in /tmp', { skip }, () => {
  assert.deepEqual(
    readdirSync('/tmp').filter((name) => name.startsWith('.carrel.')),
    [],
  );
});
