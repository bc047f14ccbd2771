/** docs/cli.md, made from the table of commands and the table of exit codes. */
import { exitCodes, exitMeanings, exitOf, type Exit } from './exit-codes.ts';
import { argumentText, connectionOptions, optionsOf } from './program.ts';
import type { CommandSpec, OptionSpec } from './spec.ts';
import { commands, groups } from './table/index.ts';

const exits = Object.entries(exitCodes);
const meanings = new Map(Object.entries(exitMeanings));

const codes = (exit: string): string =>
  Object.entries(exitOf)
    .filter(([, name]: [string, Exit]) => name === exit)
    .map(([code]) => `\`${code}\``)
    .join(', ');

function exitTable(): string {
  const rows = exits.map(([name, code]) => `| ${code} | ${meanings.get(name) ?? ''} | ${codes(name)} |`);
  return ['| exit code | meaning | error codes of the API |', '|---|---|---|', ...rows].join('\n');
}

const optionLine = ({ flags, doc, many, choices }: OptionSpec): string =>
  `- \`${flags}\` ${doc}${choices ? ` (${choices.join(', ')})` : ''}${many ? '; repeatable' : ''}`;

function section(spec: CommandSpec): string {
  const words = (spec.arguments ?? []).map(argumentText).join(' ');
  const own = optionsOf(spec).filter((option) => spec.options?.includes(option));
  return [
    `### carrel ${spec.path}${words === '' ? '' : ` ${words.replaceAll('<', '&lt;')}`}`,
    `${spec.doc.charAt(0).toUpperCase()}${spec.doc.slice(1)}.${spec.more ? ` ${spec.more.replaceAll('\n', ' ')}` : ''}`,
    ...((spec.arguments ?? []).length > 0
      ? [(spec.arguments ?? []).map(({ name, doc }) => `- \`${name}\` ${doc}`).join('\n')]
      : []),
    ...(own.length > 0 ? [own.map(optionLine).join('\n')] : []),
    ['```', ...spec.examples.map(({ line, doc }) => `${line}    # ${doc}`), '```'].join('\n'),
  ].join('\n\n');
}

export function cliMarkdown(): string {
  const single = commands.filter(({ path }) => !path.includes(' '));
  const grouped = groups.map(({ name, alias, doc }) =>
    [
      `## carrel ${name}${alias ? ` (${alias})` : ''}: ${doc}`,
      ...commands.filter(({ path }) => path.startsWith(`${name} `)).map(section),
    ].join('\n\n'),
  );
  return `${[
    '# The command line',
    '<!-- Made from src/cli/table by `node .ci/write-docs.ts`; a test compares. -->',
    'Every command has `--help` with examples, and `--json`: the result as JSON on standard output, an error as a JSON problem on standard error. Progress and remarks go to standard error. Names are accepted instead of ids; an administrator may name anybody’s machine, as long as only one is called so.',
    '## Which cloud, and as whom',
    [
      'Commands that talk to a cloud take',
      '',
      ...connectionOptions.map(optionLine),
      '',
      'Without them: the login that `carrel login` saved in `~/.config/carrel/config.json`; else, for root, the cloud of this host.',
    ].join('\n'),
    '## Exit codes',
    exitTable(),
    '`machine run`, `machine exec` and `isolate` end with the status of the program they run: 128 and its number for a signal, 124 for the time limit, 137 for another limit.',
    '## Terminals',
    '`machine exec` and `machine console` give your terminal to a program in the cloud. Ctrl-] leaves; the program goes on. If the connection is lost they come back by themselves and go on at the very byte.',
    '## Completion',
    '`carrel completion bash|zsh|fish` prints a script; see its help for where it goes.',
    '## The cloud and you',
    ...single.map(section),
    ...grouped,
  ].join('\n\n')}\n`;
}
