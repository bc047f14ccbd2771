import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { CarrelError, errorCodes } from '#base/errors.ts';
import type { Arguments } from './arguments.ts';
import { exitCodes, exitOf } from './exit-codes.ts';
import { explainFileError } from './file-errors.ts';
import { createProgram, exitCodeOf, optionsOf } from './program.ts';
import type { CommandSpec } from './spec.ts';
import { commands, groups } from './table/index.ts';

/** A shell's words: enough for the examples, which quote with double quotes only. */
function wordsOf(line: string): string[] {
  const command = line.replace(/\s+[<>]\s*\S+/g, '');
  return [...command.matchAll(/"([^"]*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? '');
}

/** Parses without running: which command was meant, with which arguments. */
async function parse(line: string): Promise<{ spec: CommandSpec; args: Arguments }> {
  let parsed: { spec: CommandSpec; args: Arguments } | undefined;
  const program = createProgram(async (spec, { args }) => {
    parsed = { spec, args };
  });
  program.configureOutput({ writeErr: () => undefined, writeOut: () => undefined });
  await program.parseAsync(wordsOf(line).slice(1), { from: 'user' });
  assert.ok(parsed, line);
  return parsed;
}

async function failure(line: string): Promise<unknown> {
  try {
    await parse(line);
  } catch (error) {
    return error;
  }
  return assert.fail(`${line} was accepted`);
}

suite('the table of commands', () => {
  for (const spec of commands)
    test(`every example of "${spec.path}" is understood, as that command`, async () => {
      for (const { line } of spec.examples) assert.equal((await parse(line)).spec.path, spec.path, line);
    });

  test('every command that is grouped has its group, and no path is there twice', () => {
    const names = new Set(groups.map(({ name }) => name));
    for (const { path } of commands) {
      const [first = '', second] = path.split(' ');
      assert.equal(names.has(first), second !== undefined, path);
    }
    assert.equal(new Set(commands.map(({ path }) => path)).size, commands.length);
  });

  test('what a command does can be loaded', async () => {
    for (const spec of commands) assert.equal(typeof (await spec.load()), 'function', spec.path);
  });

  test('every command has --json, and no option twice', () => {
    for (const spec of commands) {
      const longs = optionsOf(spec).map(({ flags }) => /--(?:no-)?[a-z-]+/.exec(flags)?.[0]);
      assert.ok(longs.includes('--json'), spec.path);
      assert.equal(new Set(longs).size, longs.length, spec.path);
    }
  });

  test('help shows the examples of a command', () => {
    const program = createProgram(async () => undefined);
    const machine = program.commands.find((command) => command.name() === 'machine');
    const create = machine?.commands.find((command) => command.name() === 'new');
    let text = '';
    create?.configureOutput({ writeOut: (part) => (text += part) }).outputHelp();
    assert.match(text, /Examples:\n {2}\$ carrel machine new web/);
  });
});

suite('parsing', () => {
  test('options after the program of "machine run" belong to the program', async () => {
    const { args } = await parse('carrel machine run --limit 5s web ls -l --json');
    assert.deepEqual(args.program('program'), ['ls', '-l', '--json']);
    assert.equal(args.duration('limit'), 5000);
    assert.equal(args.flag('json'), false);
  });

  test('a -- before the program is not part of it', async () => {
    assert.deepEqual((await parse('carrel m run web -- ls -l')).args.program('program'), ['ls', '-l']);
  });

  test('a repeatable option keeps all its values', async () => {
    const { args } = await parse('carrel m new web --label a=1 --label b=x=y');
    assert.deepEqual(args.pairs('label'), { a: '1', b: 'x=y' });
  });

  test('"regrade LAB" is "regrade start LAB"', async () => {
    assert.equal((await parse('carrel regrade reach-number')).spec.path, 'regrade start');
    assert.equal((await parse('carrel regrade undo reach-number r-0123456789ab')).spec.path, 'regrade undo');
  });

  test('sizes, times and numbers that are none are refused with a sentence', async () => {
    const { args } = await parse('carrel m new web --memory lots --cpus many --ttl soon');
    assert.throws(() => args.size('memory'), /Invalid --memory: lots/);
    assert.throws(() => args.duration('ttl'), /Invalid --ttl: soon/);
    assert.throws(() => args.number('cpus'), /--cpus wants a number/);
  });

  for (const line of [
    'carrel machien ls',
    'carrel machine',
    'carrel machine new',
    'carrel machine ls --sate running',
    'carrel machine ls --state asleep',
    'carrel whoami now',
    'carrel',
  ])
    test(`"${line}" is a usage error`, async () => {
      assert.equal(exitCodeOf(await failure(line)), exitCodes.usage);
    });

  for (const line of ['carrel --help', 'carrel machine new --help', 'carrel --version'])
    test(`"${line}" succeeds`, async () => {
      assert.equal(exitCodeOf(await failure(line)), exitCodes.ok);
    });
});

test('every error code of the API has an exit code', () => {
  assert.deepEqual(Object.keys(exitOf).sort(), Object.keys(errorCodes).sort());
  assert.equal(exitCodeOf(new CarrelError('not_found', 'x')), 3);
  assert.equal(exitCodeOf(new CarrelError('validation_failed', 'x')), 2);
  assert.equal(exitCodeOf(new CarrelError('no_capacity', 'x')), 4);
  assert.equal(exitCodeOf(new CarrelError('name_taken', 'x')), 5);
  assert.equal(exitCodeOf(new Error('x')), 1);
});

test('a file that is not there is a sentence, not a stack', () => {
  const missing = Object.assign(new Error('ENOENT: no such file or directory'), {
    code: 'ENOENT',
    path: 'a.tar',
  });
  const error = explainFileError(missing);
  assert.ok(error instanceof CarrelError);
  assert.equal(error.message, 'there is no file a.tar');
  assert.equal(exitCodeOf(error), 3);
  assert.equal(explainFileError(new Error('x')) instanceof CarrelError, false);
});
