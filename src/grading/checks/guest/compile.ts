/**
 * A guest is compiled with the image's gcc and the kit, in sandboxes. The student's sources and the author's never
 * meet in one: what an author's test says must not be readable by what a student includes.
 */
import { join } from 'node:path';
import {
  guestCommand,
  isAssembly,
  kit,
  kitInside,
  objectCommand,
  withoutLibrary,
} from '#vmm/image/compile.ts';
import { modes } from '#vmm/modes/table.ts';
import {
  type CheckContext,
  overlay,
  type Placed,
  placedTests,
  type Program,
  programOf,
  submittedWork,
} from '../../context.ts';
import type { GuestRun } from '../../format/guest.ts';
import { failed, noVerdict, type Outcome } from '../../judge/outcome.ts';
import { runGcc } from '../gcc.ts';

const output = 'carrel-guest';
/** What must be there to compile and to know the ports. */
const leastKit = ['ports.h', 'start.S', 'guest.ld'] as const;

const kitInputs = (which: GuestRun['kit']): { host: string; guest: string }[] =>
  which === 'full'
    ? [{ host: kit, guest: kitInside }]
    : leastKit.map((name) => ({ host: join(kit, name), guest: `${kitInside}/${name}` }));

interface Step {
  readonly argv: readonly string[];
  readonly kit: GuestRun['kit'];
  readonly work: readonly Placed[];
}

/** The file it makes, or why there is none. `blame` makes a verdict of what gcc says. */
const compile = (
  context: CheckContext,
  { argv, kit: which, work }: Step,
  blame?: (reason: string) => Outcome,
): Promise<Program> =>
  runGcc(
    context,
    { argv: [...argv, withoutLibrary], output, inputs: kitInputs(which), work, mode: 0o644 },
    blame,
  );

/** All of it is the student's: one step. */
async function compileSubmitted(context: CheckContext, run: GuestRun, file: string): Promise<Program> {
  const work = overlay(submittedWork(context), placedTests(context, run.files));
  const command = guestCommand(modes[run.mode], {
    kit: kitInside,
    sources: [file, ...run.with],
    output,
    start: !isAssembly(file),
  });
  return await compile(context, { argv: command, kit: run.kit, work });
}

/** The author's test with the student's sources: an object of each, in sandboxes of their own, then linked. */
async function compileTest(context: CheckContext, run: GuestRun, test: string): Promise<Program> {
  const headers = placedTests(context, run.files);
  const mode = modes[run.mode];
  const objectOf = (sources: readonly string[]) => objectCommand(mode, { kit: kitInside, sources, output });
  const authors = await programOf(context, JSON.stringify(['guest test', test, run.mode, run.files]), () =>
    compile(
      context,
      // the author may use all of the kit
      {
        argv: objectOf([test]),
        kit: 'full',
        work: overlay(headers, placedTests(context, [{ from: test, to: test }])),
      },
      (reason) => noVerdict(`tests/${test} ${reason}`),
    ),
  );
  if ('verdict' in authors) return authors;
  const students =
    run.with.length === 0
      ? undefined
      : await programOf(context, JSON.stringify(['guest part', run.with, run.kit, run.mode, run.files]), () =>
          compile(context, {
            argv: objectOf(run.with),
            kit: run.kit,
            work: overlay(submittedWork(context), headers),
          }),
        );
  if (students && 'verdict' in students) return students;
  const parts = [{ host: authors.host, guest: 'test.o' }];
  if (students) parts.push({ host: students.host, guest: 'submission.o' });
  const command = guestCommand(mode, {
    kit: kitInside,
    sources: parts.map(({ guest }) => guest),
    output,
    start: !isAssembly(test),
  });
  return await compile(context, { argv: command, kit: 'full', work: parts });
}

/** The guest of a run, compiled once for all checks that share it. */
export async function compileGuestOf(context: CheckContext, run: GuestRun): Promise<Program> {
  const { file, test } = run;
  const wanted = [...(file === undefined ? [] : [file]), ...run.with];
  const missing = wanted.find((path) => !context.files.some((each) => each.path === path));
  if (missing !== undefined) return failed(`${missing} was not handed in`);
  const { files, kit: which, mode, with: more } = run;
  return await programOf(context, JSON.stringify(['guest', file, test, more, files, which, mode]), () =>
    test === undefined ? compileSubmitted(context, run, file ?? '') : compileTest(context, run, test),
  );
}
