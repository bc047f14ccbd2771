/**
 * Commands typed at the shell on a serial console, one after the other: each waits for the prompt, is run by the
 * shell itself (so that `cd` and variables stay), gets no input that was meant for the next one, and has its own
 * status, output, duration and time limit.
 */
import { makeMarker } from '#base/marker.ts';
import { openScreen, type Screen, type ScreenSource, shownEnd } from '#base/screen.ts';

/** `/ # `, `~ $ `, `root@web:/tmp# `: a sign that a shell waits, at the end of all text. */
const prompt = /(?:^|[\r\n])[^\r\n]{0,200}[#$%>] $/;
/** What the simplest line editors take (busybox: 1024 bytes). */
export const longestCommand = 800;
/** From the end of a command to the prompt. */
const settleMs = 1000;
const ctrlC = '\x03';
const outputBytes = 2 ** 20;

export type CommandEnd =
  | { readonly kind: 'exited'; readonly status: number }
  /** The shell did not take the line. */
  | { readonly kind: 'refused' }
  /** Not over in time; it was interrupted. */
  | { readonly kind: 'time limit' }
  /** Not typed at all: too long, or there was no prompt. */
  | { readonly kind: 'not run'; readonly why: string };

export interface CommandResult {
  readonly command: string;
  readonly end: CommandEnd;
  readonly output: string;
  readonly ms: number;
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const atPrompt = (text: string): true | undefined => (prompt.test(shownEnd(text)) ? true : undefined);

const lastLine = (text: string): string =>
  shownEnd(text)
    .split(/[\r\n]/)
    .at(-1) ?? '';

/** The commands of a starter file: a line each, empty ones and comments left out; the last needs no newline. */
export function commandsOf(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** What is typed for a command; pure, for tests with other shells. */
export function commandLine(command: string, begin: string, end: string): string {
  // the command reads nothing: what is typed next is not for it
  return ` printf '%s%s\\n' ${begin};eval ${quote(command)} </dev/null;printf '\\n%s%s %s\\n' ${end} $?`;
}

async function runOne(screen: Screen, command: string, limitMs: number): Promise<CommandResult> {
  const began = performance.now();
  const done = (end: CommandEnd, output = ''): CommandResult => ({
    command,
    end,
    output,
    ms: performance.now() - began,
  });
  const [begin, end, question] = [makeMarker(), makeMarker(), makeMarker()];
  const asked = ` printf '%s%s\\n' ${question.words}`;
  const line = commandLine(command, begin.words, end.words);
  if (Buffer.byteLength(line) > longestCommand + 200)
    return done({ kind: 'not run', why: `it has more than ${longestCommand} bytes` });
  const before = lastLine(screen.text);
  screen.forget();
  await screen.type(`${line}\r`);
  /** The same prompt as before, on a line of its own. */
  const backAt = (text: string): boolean => text.includes('\n') && lastLine(text) === before;
  const between = (text: string): string => {
    const from = text.indexOf(begin.text);
    const to = text.indexOf(end.text);
    return text
      .slice(from < 0 ? text.length : from + begin.text.length, to < 0 ? undefined : to)
      .replace(asked, '')
      .replaceAll(/\r+\n/g, '\n')
      .replace(/^\n/, '')
      .replace(/\n$/, '');
  };
  const find = (text: string): number | undefined => {
    const status = new RegExp(`${end.text} (\\d{1,3})[\\r\\n]`).exec(text)?.[1];
    return status === undefined ? undefined : Number(status);
  };
  const left = (): number => Math.max(began + limitMs - performance.now(), 0);
  let how = await screen.wait<number | 'prompt'>(
    left(),
    (text) => find(text) ?? (backAt(text) ? 'prompt' : undefined),
  );
  if (how === 'prompt') {
    // a line that the shell refuses never comes to the second marker; or a program shows what looks like a prompt
    await screen.type(`${asked}\r`);
    how = await screen.wait(
      left(),
      (text) => find(text) ?? (text.includes(question.text) ? 'prompt' : undefined),
    );
  }
  if (how !== undefined) {
    await screen.wait(settleMs, atPrompt);
    const end: CommandEnd = how === 'prompt' ? { kind: 'refused' } : { kind: 'exited', status: how };
    return done(end, between(screen.text));
  }
  const output = between(screen.text);
  await screen.type(ctrlC);
  await screen.wait(settleMs, atPrompt);
  return done({ kind: 'time limit' }, output);
}

export interface CommandsOptions {
  /** For the first prompt: as long as the guest boots. */
  readonly bootMs: number;
  /** For each command. */
  readonly limitMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly onResult?: ((result: CommandResult) => void) | undefined;
}

/** Runs them in order. All have a result, also those that never came to be run. */
export async function runCommands(
  console: ScreenSource,
  commands: readonly string[],
  { bootMs, limitMs, signal, onResult }: CommandsOptions,
): Promise<readonly CommandResult[]> {
  using screen = openScreen(console, { maxBytes: outputBytes, signal });
  const results: CommandResult[] = [];
  let waitMs = bootMs;
  let why: string | undefined;
  for (const command of commands) {
    try {
      if (why === undefined && (await screen.wait(waitMs, atPrompt)) === undefined)
        why = 'there was no prompt on the console';
      waitMs = limitMs;
      const result: CommandResult =
        why === undefined
          ? await runOne(screen, command, limitMs)
          : { command, end: { kind: 'not run', why }, output: '', ms: 0 };
      results.push(result);
      onResult?.(result);
    } catch (error) {
      if (signal?.aborted !== true) throw error;
      why = 'the machine has ended';
      const result: CommandResult = { command, end: { kind: 'not run', why }, output: '', ms: 0 };
      results.push(result);
      onResult?.(result);
    }
  }
  return results;
}

/** For people, without a full stop. */
export function describeCommandEnd(end: CommandEnd): string {
  switch (end.kind) {
    case 'exited':
      return `status ${end.status}`;
    case 'refused':
      return 'refused by the shell';
    case 'time limit':
      return 'time limit';
    case 'not run':
      return `not run: ${end.why}`;
    default:
      end satisfies never;
      return '';
  }
}
