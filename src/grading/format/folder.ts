/**
 * A lab folder:
 *
 *     lab.yaml               what is asked, and the checks
 *     start/                 what the student begins with
 *     tests/                 what the checks use; no student ever gets it
 *     solutions/NAME/        a submission, right or wrong on purpose
 *     solutions/NAME/expect.yaml   what it promises (or `expected` in lab.yaml)
 *     README.md, notes/      for colleagues
 */
import { lstat, readFile, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { type Parsed, maxYamlBytes, parseYaml } from './document.ts';
import type { FileExpectation, TextExpectation } from './expectations.ts';
import type { GuestRun, GuestSpec } from './guest.ts';
import { type Check, type LabDefinition, resolveLab } from './lab.ts';
import { type Expected, type LabFields, type Promised, expected, labFields } from './schema.ts';
import { type SubmittedFile, acceptSubmission } from './submission.ts';
import { listFiles } from './tree.ts';

export interface Solution {
  readonly name: string;
  readonly directory: string;
  /** Its files, without expect.yaml. */
  readonly files: readonly SubmittedFile[];
  /** What it promises of each check. */
  readonly promises: ReadonlyMap<string, Promised>;
}

export interface LabFolder {
  readonly directory: string;
  readonly lab: LabDefinition;
  /** Paths below tests/. */
  readonly tests: ReadonlySet<string>;
  /** Paths below start/. */
  readonly start: readonly SubmittedFile[];
  readonly solutions: readonly Solution[];
}

const known = new Set(['lab.yaml', 'README.md', 'LICENSE', 'start', 'tests', 'solutions', 'notes']);
const expectFile = 'expect.yaml';

function below(files: readonly SubmittedFile[], directory: string): SubmittedFile[] {
  const prefix = `${directory}/`;
  return files
    .filter(({ path }) => path.startsWith(prefix))
    .map(({ path, bytes }) => ({ path: path.slice(prefix.length), bytes }));
}

/** Every file below tests/ that the checks name, and where. */
function* testsUsed(lab: LabFields): Generator<{ from: string; path: readonly PropertyKey[] }> {
  for (const [index, { from }] of (lab.build?.files ?? []).entries())
    yield { from, path: ['build', 'files', index, 'from'] };
  for (const [index, { place }] of lab.start.entries())
    if (place?.test !== undefined) yield { from: place.test, path: ['start', index, 'place', 'test'] };
  for (const [index, { run, guest, answers }] of lab.checks.entries()) {
    if (guest) yield* testsOfGuest(guest, ['checks', index, 'guest']);
    if (answers) yield* testsOfGuest(answers.guest, ['checks', index, 'answers', 'guest']);
    const path = ['checks', index, 'run'];
    if (run?.stdinFile !== undefined) yield { from: run.stdinFile, path: [...path, 'stdinFile'] };
    for (const [at, { from }] of (run?.files ?? []).entries())
      yield { from, path: [...path, 'files', at, 'from'] };
    const texts: [string, TextExpectation | FileExpectation | undefined][] = [
      ['stdout', run?.expect?.stdout],
      ['stderr', run?.expect?.stderr],
      ...(run?.expect?.files ?? []).map((file): [string, FileExpectation] => ['files', file]),
    ];
    for (const [name, text] of texts)
      if (text?.exactFile !== undefined) yield { from: text.exactFile, path: [...path, 'expect', name] };
  }
}

function* testsOfGuest(
  { test, files, share = [], expect }: GuestRun & Partial<Pick<GuestSpec, 'expect'>>,
  path: readonly PropertyKey[],
): Generator<{ from: string; path: readonly PropertyKey[] }> {
  if (test !== undefined) yield { from: test, path: [...path, 'test'] };
  for (const [at, { from }] of files.entries()) yield { from, path: [...path, 'files', at, 'from'] };
  for (const [at, { from }] of share.entries())
    if (from !== undefined) yield { from, path: [...path, 'share', at, 'from'] };
  const texts = [
    expect?.output,
    ...(expect?.vcpus ?? []).map((vcpu) => vcpu.output),
    ...(expect?.files ?? []),
  ];
  for (const text of texts)
    if (text?.exactFile !== undefined) yield { from: text.exactFile, path: [...path, 'expect'] };
}

function promisesOf(name: string, promised: Expected, checks: readonly Check[]): Map<string, Promised> {
  const rules: Readonly<Record<string, Promised>> =
    typeof promised === 'string' ? { '*': promised } : promised;
  const ids = new Set(checks.map((check) => check.id));
  for (const id of Object.keys(rules))
    if (id !== '*' && !ids.has(id))
      throw new CarrelError('lab_invalid', `solution ${name} promises something of ${id}, which is no check`);
  return new Map(
    checks.map(({ id }) => {
      const word = rules[id] ?? rules['*'];
      if (word === undefined)
        throw new CarrelError('lab_invalid', `solution ${name} promises nothing of check ${id}`, {
          hint: 'name the check, or say what holds for all others with "*"',
        });
      return [id, word] as const;
    }),
  );
}

async function loadSolution(
  folder: string,
  name: string,
  all: readonly SubmittedFile[],
  lab: LabDefinition,
): Promise<Solution> {
  const directory = join(folder, 'solutions', name);
  const own = all.some(({ path }) => path === expectFile);
  const inLab = lab.expected[name];
  if (own === (inLab !== undefined))
    throw new CarrelError(
      'lab_invalid',
      own
        ? `solution ${name} has its promises twice: in ${expectFile} and in lab.yaml`
        : `solution ${name} promises nothing: write solutions/${name}/${expectFile}, or name it under "expected" in lab.yaml`,
    );
  const promised =
    inLab ??
    parseYaml(
      `solutions/${name}/${expectFile}`,
      await readFile(join(directory, expectFile), 'utf8'),
      expected,
    ).value;
  const files = all.filter(({ path }) => path !== expectFile);
  try {
    acceptSubmission(lab.submit, files);
  } catch (cause) {
    throw new CarrelError(
      'lab_invalid',
      `solution ${name}: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
      },
    );
  }
  return { name, directory, files, promises: promisesOf(name, promised, lab.checks) };
}

async function readLabYaml(directory: string): Promise<Parsed<LabFields>> {
  try {
    const path = join(directory, 'lab.yaml');
    const stats = await lstat(path);
    if (!stats.isFile() || stats.size > maxYamlBytes)
      throw new CarrelError('lab_invalid', `lab.yaml is ${stats.isFile() ? 'too large' : 'no plain file'}`);
    return parseYaml('lab.yaml', await readFile(path, 'utf8'), labFields);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR')
      throw new CarrelError('lab_invalid', `${directory} has no lab.yaml`, {
        hint: 'a lab is a folder with a lab.yaml; labs/README.md says what is in it',
      });
    throw error;
  }
}

/**
 * Reads and checks a lab folder. Nothing in it is run.
 *
 * @example const { lab, solutions } = await loadLab('labs/reach-number');
 */
export async function loadLab(path: string): Promise<LabFolder> {
  const parsed = await readLabYaml(path);
  const directory = await realpath(path);
  const files = await listFiles(directory);
  for (const { path: file } of files) {
    const top = file.split('/')[0] ?? file;
    if (!known.has(top) && !top.startsWith('.'))
      throw new CarrelError('lab_invalid', `${file} is no part of a lab (known: ${[...known].join(', ')})`);
  }
  const lab = resolveLab(parsed);
  const tests = new Set(below(files, 'tests').map((file) => file.path));
  const missing = [...testsUsed(parsed.value)].filter(({ from }) => !tests.has(from));
  if (missing.length > 0)
    throw parsed.complain(
      missing.map(({ from, path }) => ({ path, message: `tests/${from} does not exist` })),
    );
  const solutionFiles = below(files, 'solutions');
  const names = [
    ...new Set(
      solutionFiles.filter((file) => file.path.includes('/')).map((file) => file.path.split('/')[0] ?? ''),
    ),
  ];
  for (const name of Object.keys(lab.expected))
    if (!names.includes(name))
      throw parsed.complain([{ path: ['expected', name], message: 'is no folder below solutions/' }]);
  const solutions: Solution[] = [];
  for (const name of names.sort())
    solutions.push(await loadSolution(directory, name, below(solutionFiles, name), lab));
  return { directory, lab, tests, start: below(files, 'start'), solutions };
}
