/** A lab as graders use it: names resolved, limits merged, points shared out. */
import type { Visibility } from '#contract/schemas/labs.ts';
import type { Parsed } from './document.ts';
import type { AnswersSpec, GuestSpec } from './guest.ts';
import { type BuildSpec, type CallSpec, type ObserveSpec, type RunSpec, subjectOf } from './kinds.ts';
import { type LimitFields, type Limits, resolveLimits } from './limits.ts';
import { type LabMachine, needsPowerOff, refusalOf, resolveMachine } from './machine.ts';
import { sharePoints, sumPoints } from './points.ts';
import type { CheckFields, Expected, LabFields, StartStep, SubmitFields } from './schema.ts';

export type CheckKind =
  | { readonly kind: 'run'; readonly run: RunSpec }
  | { readonly kind: 'call'; readonly call: CallSpec }
  | { readonly kind: 'observe'; readonly observe: ObserveSpec }
  | { readonly kind: 'guest'; readonly guest: GuestSpec }
  | { readonly kind: 'answers'; readonly answers: AnswersSpec };

export interface Check {
  readonly id: string;
  readonly title: string;
  readonly points: number;
  readonly visibility: Visibility;
  /** Checks that must pass first; among them the check whose process this one is about. */
  readonly needs: readonly string[];
  readonly limits: Limits;
  readonly show: CheckFields['show'];
  readonly what: CheckKind;
}

export interface LabDefinition {
  readonly name: string;
  readonly title: string;
  readonly summary: string;
  readonly image: string;
  readonly run: 'sandbox' | 'machine';
  /** Students' machines, and, with `run: machine`, those that submissions are graded in. */
  readonly machine: LabMachine;
  readonly points: number;
  readonly submit: SubmitFields;
  readonly limits: Limits;
  readonly build: (BuildSpec & { readonly resolved: Limits }) | undefined;
  readonly start: readonly StartStep[];
  readonly checks: readonly Check[];
  readonly expected: Readonly<Record<string, Expected>>;
}

type Problem = { path: readonly PropertyKey[]; message: string };

function kindOf({ run, call, observe, guest, answers }: CheckFields): CheckKind | undefined {
  if (run) return { kind: 'run', run };
  if (call) return { kind: 'call', call };
  if (guest) return { kind: 'guest', guest };
  if (answers) return { kind: 'answers', answers };
  return observe && { kind: 'observe', observe };
}

function needsOf(check: CheckFields): string[] {
  const subject = check.observe && subjectOf(check.observe);
  return [...new Set(subject === undefined ? check.needs : [...check.needs, subject])];
}

/** A check may need only checks before it: so there are no cycles, and the order of the file is an order to run in. */
function problemsOfNeeds(checks: readonly CheckFields[]): Problem[] {
  const problems: Problem[] = [];
  const before = new Map<string, CheckFields>();
  for (const [index, check] of checks.entries()) {
    if (before.has(check.id))
      problems.push({ path: ['checks', index, 'id'], message: `${check.id} is used twice` });
    for (const need of needsOf(check))
      if (!before.has(need))
        problems.push({ path: ['checks', index], message: `needs ${need}, which is no check before it` });
    const subject = check.observe && subjectOf(check.observe);
    if (subject !== undefined && before.has(subject) && !before.get(subject)?.observe?.process)
      problems.push({
        path: ['checks', index, 'observe'],
        message: `names ${subject}, which looks for no process`,
      });
    before.set(check.id, check);
  }
  return problems;
}

/** A lab whose submissions run in sandboxes. */
function problemsOfSandbox({ start, machine, checks }: LabFields): Problem[] {
  const problems: Problem[] = [];
  if (start.length > 0)
    problems.push({ path: ['start'], message: 'prepares a machine, but run says sandbox' });
  // guests are run in sandboxes; where their authors try them is another thing
  if (machine && machine.driver !== 'micro')
    problems.push({ path: ['machine'], message: 'describes a machine, but run says sandbox' });
  for (const [index, check] of checks.entries())
    if (check.observe)
      problems.push({
        path: ['checks', index, 'observe'],
        message: 'looks at a machine, but run says sandbox',
      });
  return problems;
}

const noSandbox =
  'needs a sandbox of the image, and that of a virtual machine is a disk. What a command in the machine says, its root could have forged: place and run it in the start steps, and observe what it leaves';

/** A lab whose submissions get a machine: what its driver does not have, and what cannot be seen of it. */
function problemsOfMachine(lab: LabFields): Problem[] {
  const { driver } = resolveMachine(lab.machine);
  if (driver === 'micro')
    return [
      {
        path: ['machine', 'driver'],
        message: 'is for guests, which checks of the kind guest run and judge: say run: sandbox',
      },
    ];
  const problems: Problem[] = [];
  for (const [index, { restart }] of lab.start.entries())
    if (restart !== undefined && driver === 'container')
      problems.push({
        path: ['start', index, 'restart'],
        message: 'is for virtual machines: a container has nothing that boots',
      });
  if (driver === 'qemu' && lab.build) problems.push({ path: ['build'], message: noSandbox });
  let off: string | undefined;
  for (const [index, check] of lab.checks.entries()) {
    const { observe } = check;
    const path = ['checks', index];
    if (!observe) {
      const kind = kindOf(check)?.kind;
      if (driver === 'qemu' && kind) problems.push({ path: [...path, kind], message: noSandbox });
      continue;
    }
    const refusal = refusalOf(driver, observe);
    if (refusal) problems.push({ path: [...path, 'observe', refusal.field], message: refusal.message });
    else if (needsPowerOff(driver, observe)) off ??= check.id;
    else if (off !== undefined)
      problems.push({
        path,
        message: `looks at the machine while it runs, but check ${off} has it switched off to read its disk: put the checks of files last`,
      });
  }
  return problems;
}

/** Inside, the submission is copied into the working directory: an author's limit must leave room for it. */
function problemsOfLimits({ submit, limits, build, checks }: LabFields): Problem[] {
  const rooms: [PropertyKey[], LimitFields | undefined][] = [
    [['build', 'limits'], build?.limits],
    ...checks.map((check, index): [PropertyKey[], LimitFields | undefined] => [
      ['checks', index, 'limits'],
      check.limits,
    ]),
  ];
  return rooms
    .flatMap(([path, own]) => {
      const { tmpBytes, tmpFiles } = resolveLimits(limits, own);
      const at = own?.disk !== undefined || own?.files !== undefined ? path : ['limits'];
      if (tmpBytes < 2 * submit.totalSize)
        return [
          {
            path: at,
            message: 'leave too little disk: it must be at least twice the submission’s totalSize',
          },
        ];
      if (tmpFiles < 2 * submit.maxFiles)
        return [{ path: at, message: 'leave too few files: at least twice the submission’s maxFiles' }];
      return [];
    })
    .slice(0, 1);
}

/** The points of each check, or what is wrong with them. */
function pointsOf({ points, checks }: LabFields): { shares: readonly number[]; total: number } | Problem {
  const given = checks.map((check) => check.points).filter((each) => each !== undefined);
  if (given.length === checks.length) {
    const sum = sumPoints(given);
    if (points === undefined || points === sum) return { shares: given, total: sum };
    return { path: ['points'], message: `is ${points}, but the checks add up to ${sum}` };
  }
  if (given.length > 0)
    return { path: ['checks'], message: 'have points on some only; give all of them points, or weights' };
  if (points === undefined)
    return { path: [], message: 'points are missing: give the lab a total, or each check its points' };
  const weights = checks.map((check) => check.weight ?? 1);
  if (weights.every((weight) => weight === 0)) return { path: ['checks'], message: 'all have the weight 0' };
  return { shares: sharePoints(points, weights), total: points };
}

/** Resolves a parsed lab.yaml; what a schema cannot see is checked here. */
export function resolveLab({ value: lab, complain }: Parsed<LabFields>): LabDefinition {
  const points = pointsOf(lab);
  const problems = [
    ...problemsOfNeeds(lab.checks),
    ...(lab.run === 'sandbox' ? problemsOfSandbox(lab) : problemsOfMachine(lab)),
    ...problemsOfLimits(lab),
    ...('path' in points ? [points] : []),
  ];
  if (problems.length > 0 || 'path' in points) throw complain(problems);
  return {
    name: lab.name,
    title: lab.title,
    summary: lab.summary,
    image: lab.image,
    run: lab.run,
    machine: resolveMachine(lab.machine),
    points: points.total,
    submit: lab.submit,
    limits: resolveLimits(lab.limits),
    build: lab.build && {
      ...lab.build,
      resolved: resolveLimits({ cpu: 30_000 }, lab.limits, lab.build.limits),
    },
    start: lab.start,
    expected: lab.expected,
    checks: lab.checks.flatMap((check, index): Check[] => {
      const what = kindOf(check);
      if (!what) return [];
      const { id, title, visibility, show } = check;
      return [
        {
          id,
          title,
          visibility,
          show,
          points: points.shares[index] ?? 0,
          needs: needsOf(check),
          limits: resolveLimits(lab.limits, check.limits),
          what,
        },
      ];
    }),
  };
}
