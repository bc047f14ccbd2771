/** For tests of attacks: small labs, an honest solution for each, and a grader for the test file. */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import type { CheckResult } from '#contract/schemas/labs.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { type Texts, gradeTexts } from './testing.ts';

/** Known to the lab only: the test is whether it can be had without computing it. */
export const secret = 731_904_217;
const inTests = 'kept-in-the-tests-only';

export const head = `title: T
name: t
image: debian-12
run: sandbox
points: 10
submit: { files: [{ pattern: '**' }] }
limits: { cpu: 1s, wall: 5s, memory: 96M, processes: 24, output: 64K, disk: 4M, files: 300, fileSize: 2M }
checks:
`;
const python: Texts = {
  'lab.yaml': `${head}  - { id: it, title: It, visibility: hidden, call: { language: python, file: m.py, function: f, args: [20], returns: ${secret} } }\n`,
  'tests/secret': inTests,
};
const c: Texts = {
  'lab.yaml': `${head}  - { id: it, title: It, visibility: hidden, call: { language: c, file: m.c, function: f, signature: "long f(int)", args: [20], returns: ${secret} } }\n`,
};
const command: Texts = {
  'lab.yaml': `${head}  - { id: it, title: It, run: { argv: [sh, m.sh], expect: { stdout: { lines: ["${secret}"] }, files: [{ path: out, lines: ["${secret}"], maxSize: 1K }] } } }\n`,
};
const honest: Readonly<Record<AttackKind, Texts>> = {
  python: { 'm.py': `def f(n): return ${secret - 20} + n` },
  c: { 'm.c': `long f(int n) { return ${secret - 20} + n; }` },
  command: { 'm.sh': `echo $((${secret - 20} + 20)) | tee out` },
};

export type AttackKind = 'python' | 'c' | 'command';

export interface AttackBed {
  readonly grade: (lab: Texts, submission: Texts) => Promise<CheckResult>;
  /** Grades the attack, which must gain nothing, then the honest solution, which must pass. */
  readonly attacked: (kind: AttackKind, text: string, reason?: RegExp) => Promise<CheckResult>;
  readonly attack: (kind: AttackKind, text: string, reason?: RegExp) => Promise<void>;
}

/** Call it once, at the top of a test file. */
export function useAttackBed(): AttackBed {
  let grader: LocalGrader;
  before(async () => {
    grader = await openLocalGrader({ slots: 2 });
  });
  after(() => grader.close());

  const grade: AttackBed['grade'] = async (lab, submission) => {
    const result = await gradeTexts(grader, lab, submission);
    const [check] = result.checks;
    assert.ok(check);
    assert.equal(result.rawPoints, check.points);
    return check;
  };
  const attacked: AttackBed['attacked'] = async (kind, text, reason = /./) => {
    const lab = { python, c, command }[kind];
    const name = { python: 'm.py', c: 'm.c', command: 'm.sh' }[kind];
    const check = await grade(lab, { [name]: text });
    assert.equal(check.points, 0, `${check.state}: ${check.reason}`);
    assert.notEqual(check.state, 'passed');
    assert.notEqual(check.state, 'error', `the author is blamed: ${check.reason}`);
    assert.match(check.reason, reason);
    const after = await grade(lab, honest[kind]);
    assert.equal(after.state, 'passed', after.reason);
    return check;
  };
  return {
    grade,
    attacked,
    attack: async (kind, text, reason) => void (await attacked(kind, text, reason)),
  };
}
