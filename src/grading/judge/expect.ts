/**
 * Expectations against bytes. A problem is a sentence for the student; what was expected is only named
 * where `reveal` says that he may know it.
 */
import { createHash } from 'node:crypto';
import type { FileExpectation, RunExpectation, TextExpectation } from '../format/expectations.ts';
import { formatDuration, formatSize } from '#base/units.ts';
import { numbersProblem } from './numbers.ts';
import type { RegexGuard } from './regex.ts';
import { quote } from './text.ts';

export interface Judging {
  readonly guard: RegexGuard;
  /** A file below tests/. */
  readonly readTest: (path: string) => Promise<Uint8Array>;
  readonly reveal: boolean;
}

export interface FileSeen {
  readonly path: string;
  /** Undefined: there is no such plain file. */
  readonly content: Uint8Array | undefined;
  readonly truncated: boolean;
  /** Something is there that is not read: a directory, a link, a file that is too large. */
  readonly other: boolean;
}

/** What a sandbox collected of a path, of which so many bytes are wanted and one more. */
export function fileSeen(
  path: string,
  { data, error }: { readonly data?: Uint8Array; readonly error?: string },
  most: number,
): FileSeen {
  return {
    path,
    content: data,
    truncated: error === 'EFBIG' || (data !== undefined && data.length > most),
    // ENOTDIR: a part of the path is a file
    other: error !== undefined && error !== 'ENOENT' && error !== 'ENOTDIR',
  };
}

const list = (item: string | readonly string[] | undefined): readonly string[] =>
  item === undefined ? [] : typeof item === 'string' ? [item] : item;

/** Lines without blanks at their ends, without empty lines at the end. */
function linesOf(text: string): string[] {
  const lines = text.split('\n').map((line) => line.trimEnd());
  while (lines.at(-1) === '') lines.pop();
  return lines;
}

const show = (line: string | undefined): string => (line === undefined ? 'nothing' : quote(line));

function linesProblem(
  text: string,
  expected: readonly string[],
): { observed: string; expected: string } | undefined {
  const actual = linesOf(text);
  const wanted = linesOf(expected.join('\n'));
  const at = wanted.findIndex((line, index) => actual[index] !== line);
  const line = at < 0 && actual.length > wanted.length ? wanted.length : at;
  if (line < 0) return undefined;
  return { observed: `has ${show(actual[line])} in line ${line + 1}`, expected: show(wanted[line]) };
}

function exactProblem(
  actual: Uint8Array,
  wanted: Uint8Array,
): { observed: string; expected: string } | undefined {
  if (Buffer.compare(actual, wanted) === 0) return undefined;
  return {
    observed: `is ${quote(Buffer.from(actual).toString())}`,
    expected: quote(Buffer.from(wanted).toString()),
  };
}

/** What is wrong with the bytes called `name`; undefined if nothing. */
export async function textProblem(
  name: string,
  bytes: Uint8Array,
  expect: TextExpectation,
  { guard, readTest, reveal }: Judging,
): Promise<string | undefined> {
  const text = Buffer.from(bytes).toString('utf8');
  const hide = `${name} is not as expected`;
  const say = (problem: { observed: string; expected: string } | undefined): string | undefined =>
    problem && (reveal ? `${name} ${problem.observed}, expected ${problem.expected}` : hide);
  const first = [
    expect.exact === undefined ? undefined : exactProblem(bytes, Buffer.from(expect.exact)),
    expect.exactFile === undefined ? undefined : exactProblem(bytes, await readTest(expect.exactFile)),
    expect.lines && linesProblem(text, expect.lines),
    expect.numbers && numbersProblem(text, expect.numbers),
  ].find((problem) => problem !== undefined);
  if (first) return say(first);
  for (const part of list(expect.contains))
    if (!text.includes(part)) return reveal ? `${name} does not contain ${quote(part)}` : hide;
  for (const part of list(expect.excludes))
    if (text.includes(part)) return reveal ? `${name} contains ${quote(part)}` : hide;
  if (expect.regex !== undefined && !(await guard.matches(expect.regex, text)))
    return reveal ? `${name} does not match /${expect.regex}/` : hide;
  return undefined;
}

/** What is wrong with a file that the run left. */
export async function fileProblem(
  file: FileSeen,
  expect: FileExpectation,
  judging: Judging,
): Promise<string | undefined> {
  const { path } = expect;
  if (expect.absent)
    return file.content === undefined && !file.other
      ? undefined
      : `the file ${path} is there, and should not be`;
  if (file.truncated) return `the file ${path} is larger than ${formatSize(expect.maxSize)}`;
  if (file.content === undefined) return `the file ${path} is missing, or is no plain file`;
  if (
    expect.sha256 !== undefined &&
    createHash('sha256').update(file.content).digest('hex') !== expect.sha256
  )
    return `the file ${path} is not as expected`;
  return await textProblem(`the file ${path}`, file.content, expect, judging);
}

export interface RunSeen {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly files: readonly FileSeen[];
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly memoryBytes: number | null;
}

/** What is wrong with a run beside the way it ended; undefined if nothing. */
export async function runProblem(
  seen: RunSeen,
  expect: RunExpectation,
  judging: Judging,
): Promise<string | undefined> {
  const used: readonly [number | null, number | undefined, string, (value: number) => string][] = [
    [seen.wallMs, expect.maxWall, 'took', formatDuration],
    [seen.cpuMs, expect.maxCpu, 'used processor time of', formatDuration],
    [seen.memoryBytes, expect.maxMemory, 'used memory of', formatSize],
  ];
  if (expect.stdout) {
    const problem = await textProblem('standard output', seen.stdout, expect.stdout, judging);
    if (problem !== undefined) return problem;
  }
  if (expect.stderr) {
    const problem = await textProblem('standard error', seen.stderr, expect.stderr, judging);
    if (problem !== undefined) return problem;
  }
  for (const file of expect.files ?? []) {
    const found = seen.files.find(({ path }) => path === file.path);
    const problem = await fileProblem(found ?? fileSeen(file.path, { error: 'ENOENT' }, 0), file, judging);
    if (problem !== undefined) return problem;
  }
  for (const [value, max, verb, format] of used)
    if (max !== undefined && value !== null && value > max)
      return `${verb} ${format(value)}, allowed are ${format(max)}`;
  return undefined;
}
