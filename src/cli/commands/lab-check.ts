/** `carrel lab check`: proves a lab folder on this host, without a daemon. */
import { resolve } from 'node:path';
import type { LogFields, Logger } from '#base/log.ts';
import { formatDuration } from '#base/units.ts';
import { loadLab } from '#grading/format/folder.ts';
import { openLocalGrader } from '#grading/local.ts';
import { proveLab, type LabProof } from '#grading/prove.ts';
import { exitCodes } from '../exit-codes.ts';
import type { Action, Context } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import type { Progress } from '../ui/progress.ts';
import { renderTable } from '../ui/table.ts';

function render(proof: LabProof, out: Output): string {
  const lines = [
    `${out.paint('bold', proof.lab.title)}  (${proof.lab.name}, ${proof.lab.points} points, ${proof.lab.run} of ${proof.lab.image})`,
    renderTable(proof.solutions, [
      { head: 'SOLUTION', cell: (solution) => solution.name },
      { head: 'POINTS', cell: (solution) => solution.points, align: 'right' },
      {
        head: 'AS PROMISED',
        cell: (solution) => (solution.ok ? 'yes' : 'no'),
        paint: (text, solution) => out.paint(solution.ok ? 'green' : 'red', text),
      },
      { head: 'TIME', cell: (solution) => formatDuration(solution.wallMs), align: 'right' },
    ]),
  ];
  for (const { name, mismatches } of proof.solutions)
    for (const { check, promised, found, reason } of mismatches)
      lines.push(
        `${out.paint('red', '✗')} ${name}, ${check}: promised ${promised}, found ${found}: ${reason}`,
      );
  for (const problem of proof.problems) lines.push(`${out.paint('red', '✗')} ${problem}`);
  if (proof.unproven.length > 0)
    lines.push(
      `${out.paint('yellow', '!')} unproven, no wrong solution fails them: ${proof.unproven.join(', ')}`,
    );
  lines.push(
    proof.ok ? out.paint('green', 'The lab is proved.') : out.paint('red', 'The lab is not proved.'),
  );
  return lines.join('\n');
}

async function checkStatically({ args, out }: Context): Promise<undefined> {
  const { lab, solutions } = await loadLab(resolve(args.word('dir')));
  out.result(
    {
      name: lab.name,
      points: lab.points,
      checks: lab.checks.length,
      solutions: solutions.map(({ name }) => name),
    },
    () =>
      `${lab.name} is well-formed: ${lab.checks.length} checks, ${lab.points} points, ${solutions.length} solutions (not run).`,
  );
  return undefined;
}

const nothing = (): void => undefined;

/** What goes wrong beside the solutions, for people. */
function warnings(out: Output, progress: Progress): Logger {
  const say = (message: string, { error }: LogFields = {}): void => {
    progress.clear();
    out.note(`${out.paint('yellow', '!')} ${message}${typeof error === 'string' ? `: ${error}` : ''}`);
  };
  const logger: Logger = { debug: nothing, info: nothing, warn: say, error: say, with: () => logger };
  return logger;
}

export const labCheck: Action = async (context) => {
  const { args, out } = context;
  if (args.flag('static')) return await checkStatically(context);
  using progress = out.progress();
  progress.update('opening the sandboxes');
  await using grader = await openLocalGrader({ logger: warnings(out, progress) });
  const proof = await proveLab(resolve(args.word('dir')), grader, (step) => {
    if (step.kind === 'solution') progress.update(`solution ${step.name}`, step.number, step.total);
    else if (step.kind === 'check')
      progress.update(`solution ${step.solution}: checks`, step.done, step.total);
  });
  progress.clear();
  out.result(proof, () => render(proof, out));
  return proof.ok ? undefined : exitCodes.failed;
};
