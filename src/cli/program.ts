/** The parser, made from the table of commands. */
import { Command, CommanderError, Option } from 'commander';
import { CarrelError } from '#base/errors.ts';
import { Arguments } from './arguments.ts';
import { exitCodes, exitMeanings, exitOf } from './exit-codes.ts';
import { explainFileError } from './file-errors.ts';
import type { ArgumentSpec, CommandSpec, Context, GroupSpec, OptionSpec } from './spec.ts';
import { commands, groups } from './table/index.ts';
import { createOutput } from './ui/output.ts';

export const connectionOptions: readonly OptionSpec[] = [
  { flags: '--url <url>', doc: 'address of the cloud (CARREL_URL)' },
  { flags: '--token <token>', doc: 'your token (CARREL_TOKEN)' },
  {
    flags: '--data <dir>',
    doc: 'the cloud of this host with this data directory (CARREL_DATA)',
    complete: 'directory',
  },
];
const jsonOption: OptionSpec = { flags: '--json', doc: 'the result as JSON; errors as JSON problems' };

/** All options of a command, as the help shows them. */
export function optionsOf(spec: CommandSpec): readonly OptionSpec[] {
  const own = spec.options ?? [];
  const taken = new Set(own.map(({ flags }) => flags.split(' ')[0]));
  return [...own, jsonOption, ...(spec.remote ? connectionOptions : [])].filter(
    (option) => own.includes(option) || !taken.has(option.flags.split(' ')[0]),
  );
}

export function argumentText({ name, optional, many }: ArgumentSpec): string {
  const text = many ? `${name}...` : name;
  return optional ? `[${text}]` : `<${text}>`;
}

export type Run = (spec: CommandSpec, context: Context) => Promise<void>;

function examplesText(spec: CommandSpec): string {
  const width = Math.max(...spec.examples.map(({ line }) => line.length));
  const lines = spec.examples.map(({ line, doc }) => `  $ ${line.padEnd(width)}  ${doc}`);
  return `${spec.more ? `\n${spec.more}\n` : ''}\nExamples:\n${lines.join('\n')}`;
}

function toOption({ flags, doc, many, choices }: OptionSpec): Option {
  const option = new Option(flags, many ? `${doc} (repeatable)` : doc);
  if (choices) option.choices(choices);
  if (many)
    option.argParser((value: string, before: unknown) => [...(Array.isArray(before) ? before : []), value]);
  return option;
}

function addCommand(parent: Command, name: string, spec: CommandSpec, run: Run): void {
  const command = parent.command(name, { isDefault: spec.byDefault === true }).description(spec.doc);
  for (const argument of spec.arguments ?? []) command.argument(argumentText(argument), argument.doc);
  for (const option of optionsOf(spec)) command.addOption(toOption(option));
  if (spec.passThrough) command.passThroughOptions();
  command.addHelpText('after', () => examplesText(spec));
  command.action(async () => {
    const positional = new Map<string, unknown>();
    const values: readonly unknown[] = command.processedArgs;
    for (const [index, argument] of (spec.arguments ?? []).entries())
      positional.set(argument.name, values[index]);
    const options: Readonly<Record<string, unknown>> = command.opts();
    const args = new Arguments(positional, options);
    await run(spec, {
      args,
      out: createOutput({ json: args.flag('json') }),
      connect: async () => {
        const { connect } = await import('./connection.ts');
        return connect({ url: args.option('url'), token: args.option('token'), data: args.option('data') });
      },
    });
  });
}

function addGroup(program: Command, { name, alias, doc }: GroupSpec): Command {
  const group = program.command(name).description(doc);
  if (alias) group.alias(alias);
  return group;
}

/** Commander's parser over the table. It throws CommanderError instead of ending the process. */
export function createProgram(run: Run, { json = false } = {}): Command {
  const program = new Command('carrel')
    .description(
      'Carrel, a teaching cloud for systems courses: machines with root, labs, and grading from outside.',
    )
    .helpCommand(true)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      outputError: (text, write) => {
        if (!json) write(`${text.replace(/^error: /, 'carrel: ')}  see the same command with --help\n`);
      },
    })
    .version('0.1.0', '-V, --version')
    .addHelpText(
      'after',
      () =>
        `\nFirst steps:\n  $ carrel up --demo     start a cloud and grade the first submissions\n  $ carrel status        what is running\n  $ carrel doctor        what this host offers, and what follows\n\nEvery command has --help with examples, and --json.\nExit codes: ${Object.entries(
          exitMeanings,
        )
          .filter(([name]) => name !== 'interrupted')
          .map(([name]) => `${name === 'ok' ? 0 : codeOf(name)} ${name}`)
          .join(', ')}.`,
    );
  const parents = new Map(groups.map((group) => [group.name, group]));
  const made = new Map<string, Command>();
  for (const spec of commands) {
    const [first = '', second] = spec.path.split(' ');
    if (second === undefined) {
      addCommand(program, first, spec, run);
      continue;
    }
    let parent = made.get(first);
    const group = parents.get(first);
    if (!parent) {
      parent = group ? addGroup(program, group) : program.command(first);
      made.set(first, parent);
    }
    addCommand(parent, second, spec, run);
  }
  return program;
}

function codeOf(name: string): number {
  return Object.entries(exitCodes).find(([key]) => key === name)?.[1] ?? 1;
}

/** The exit code for anything thrown. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  if (error instanceof CarrelError) return exitCodes[exitOf[error.code]];
  return exitCodes.failed;
}

/** Parses and runs; returns the exit code. Never throws. */
export async function runCli(argv: readonly string[]): Promise<number> {
  let status = 0;
  let out = createOutput({ json: argv.includes('--json') });
  const program = createProgram(
    async (spec, context) => {
      out = context.out;
      const action = await spec.load();
      status = (await action(context)) ?? 0;
    },
    { json: out.json },
  );
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return status;
  } catch (thrown) {
    const error = explainFileError(thrown);
    // commander has printed its own message already
    if (!(error instanceof CommanderError)) out.error(error);
    else if (argv.includes('--json') && exitCodeOf(error) !== 0)
      out.error(new CarrelError('invalid_request', error.message.replace(/^error: /, '')));
    return exitCodeOf(error);
  }
}
