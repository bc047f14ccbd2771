/** Real shells on a real pseudo-terminal: what a guest's serial console is to us. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { patiently } from '#base/patiently.ts';
import { type CommandResult, longestCommand, runCommands } from './commands.ts';
import { Transcript } from './transcript.ts';

const skip = existsSync('/usr/bin/script') ? false : 'needs script(1)';

interface Shell extends AsyncDisposable {
  run(commands: readonly string[], limitMs?: number): Promise<readonly CommandResult[]>;
}

/** A shell behind script(1), which gives it a terminal. */
function openShell(command: string): Shell {
  const child = spawn('script', ['-qfec', command, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { PATH: process.env['PATH'], PS1: '/ # ', TERM: 'dumb', HISTFILE: '/dev/null' },
  });
  child.stdin.on('error', () => undefined);
  const transcript = new Transcript((bytes) => void child.stdin.write(bytes));
  child.stdout.on('data', (chunk: Buffer) => transcript.add(chunk));
  return {
    run: (commands, limitMs = 120_000) => runCommands(transcript, commands, { bootMs: 120_000, limitMs }),
    async [Symbol.asyncDispose]() {
      const closed = once(child, 'close');
      child.stdin.end();
      child.kill('SIGKILL');
      await closed;
    },
  };
}

for (const shell of ['busybox sh', 'dash -i', 'bash --norc --noediting -i'])
  test(`${shell}: status, output, folder and variables; nothing eats the next line`, { skip }, async () => {
    await using console = openShell(shell);
    const results = await console.run([
      'echo hello; false',
      'cd /tmp',
      'X="a b"; cat',
      'printf %s "$X $PWD"',
      'exit_status() { return 7; }; exit_status',
      "echo 'it''s'",
      'if',
      'printf "\\n/ # "; sleep 2; echo after',
      'echo last',
    ]);
    assert.deepEqual(
      results.map(({ end, output }) => [end, end.kind === 'refused' ? '' : output]),
      [
        [{ kind: 'exited', status: 1 }, 'hello\n'],
        [{ kind: 'exited', status: 0 }, ''],
        [{ kind: 'exited', status: 0 }, ''],
        [{ kind: 'exited', status: 0 }, 'a b /tmp'],
        [{ kind: 'exited', status: 7 }, ''],
        [{ kind: 'exited', status: 0 }, 'its\n'],
        results[6]?.end.kind === 'refused'
          ? [{ kind: 'refused' }, '']
          : [{ kind: 'exited', status: 2 }, results[6]?.output],
        [{ kind: 'exited', status: 0 }, results[7]?.output],
        [{ kind: 'exited', status: 0 }, 'last\n'],
      ],
    );
    assert.match(results[7]?.output ?? '', /# [^]*after\n$/);
  });

test('a command that hangs is interrupted, and the next one runs', { skip }, () =>
  patiently([1500, 6000, 24_000], async (limitMs) => {
    await using console = openShell('busybox sh');
    const results = await console.run(['echo begun; sleep 1000', 'echo next'], limitMs);
    assert.deepEqual(
      results.map(({ end, output }) => [end.kind, output]),
      [
        ['time limit', 'begun'],
        ['exited', 'next\n'],
      ],
    );
  }),
);

test('what is too long for a console is not typed; without a prompt nothing is', { skip }, async () => {
  {
    await using console = openShell('busybox sh');
    const [long, short] = await console.run([`echo ${'x'.repeat(longestCommand + 200)}`, 'echo x']);
    assert.equal(long?.end.kind, 'not run');
    assert.deepEqual(short?.end, { kind: 'exited', status: 0 });
  }
  const transcript = new Transcript(() => assert.fail('something was typed'));
  transcript.add(Buffer.from('[    0.000000] Linux version\n'));
  const results = await runCommands(transcript, ['a', 'b'], { bootMs: 300, limitMs: 300 });
  assert.deepEqual(
    results.map(({ end }) => end),
    ['a', 'b'].map(() => ({ kind: 'not run', why: 'there was no prompt on the console' })),
  );
});
