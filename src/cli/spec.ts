/**
 * A command as data. The parser, the help, the completion scripts and docs/cli.md are made from the table of
 * these; what a command does is loaded only when it runs, so that help stays quick.
 */
import type { Arguments } from './arguments.ts';
import type { Connection } from './connection.ts';
import type { Output } from './ui/output.ts';

export interface ArgumentSpec {
  readonly name: string;
  readonly doc: string;
  readonly optional?: true;
  /** Takes all that follow. */
  readonly many?: true;
  /** What the shell completes here. */
  readonly complete?: 'file' | 'directory';
}

export interface OptionSpec {
  /** As commander writes them: `-m, --memory <size>`. */
  readonly flags: string;
  readonly doc: string;
  /** May be given several times. */
  readonly many?: true;
  readonly choices?: readonly string[];
  readonly complete?: 'file' | 'directory';
}

export interface Example {
  readonly line: string;
  readonly doc: string;
}

export interface Context {
  readonly args: Arguments;
  readonly out: Output;
  /** Opens the connection that the options, the environment or the saved login name. */
  readonly connect: () => Promise<Connection>;
}

/** Returns an exit status other than 0 where the command has one of its own (exec, test, doctor). */
export type Action = (context: Context) => Promise<number | undefined>;

export interface CommandSpec {
  /** Words after `carrel`: `machine new`. */
  readonly path: string;
  readonly doc: string;
  /** Paragraphs for `--help` only. */
  readonly more?: string;
  readonly arguments?: readonly ArgumentSpec[];
  readonly options?: readonly OptionSpec[];
  readonly examples: readonly [Example, ...Example[]];
  /** Talks to a cloud: takes --url and --token. */
  readonly remote?: true;
  /** The command of its group that is meant when no other is named: `carrel regrade LAB`. */
  readonly byDefault?: true;
  /** Options after the first argument belong to the program that is run. */
  readonly passThrough?: true;
  readonly load: () => Promise<Action>;
}

export interface GroupSpec {
  readonly name: string;
  readonly alias?: string;
  readonly doc: string;
}
