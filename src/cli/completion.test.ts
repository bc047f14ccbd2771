import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { launch } from '#host/launch.ts';
import { completionScript, shells } from './completion.ts';
import { commands } from './table/index.ts';

/** What bash offers for the words so far, the last one being unfinished. */
async function offered(...words: string[]): Promise<string[]> {
  const script = `${completionScript('bash')}
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _carrel; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr, status } = await launch(['bash', '-c', script, 'bash', ...words]);
  assert.equal(status, 0, stderr.toString());
  return stdout.toString().trim().split('\n');
}

test('bash completes commands, groups and their aliases', async () => {
  assert.deepEqual(await offered('carrel', 'gradeb'), ['gradebook']);
  assert.deepEqual(await offered('carrel', 'machine', 'st'), ['start', 'stop', 'stats']);
  assert.deepEqual(await offered('carrel', 'm', 'cons'), ['console']);
});

test('bash completes the options of a command, also after arguments', async () => {
  assert.deepEqual(await offered('carrel', 'machine', 'new', 'web', '--mem'), ['--memory']);
  assert.deepEqual(await offered('carrel', 'submit', 'reach-number', '--no-'), ['--no-wait']);
});

test('bash completes files where files are meant', async () => {
  assert.ok((await offered('carrel', 'submit', 'lab', '/etc/passw')).includes('/etc/passwd'));
});

test('every script names every command', () => {
  for (const shell of shells) {
    const script = completionScript(shell);
    for (const { path } of commands)
      assert.ok(script.includes(path.split(' ').at(-1) ?? path), `${shell}: ${path}`);
  }
});

for (const shell of ['zsh', 'fish'] as const) {
  const program = `/usr/bin/${shell}`;
  test(
    `${shell} reads its script`,
    { skip: existsSync(program) ? false : `${shell} is not installed` },
    async () => {
      const { status, stderr } = await launch([program, '-n', '/dev/stdin'], {
        input: completionScript(shell),
      });
      assert.equal(status, 0, stderr.toString());
    },
  );
}
