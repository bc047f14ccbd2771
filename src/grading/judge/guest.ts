/** Expectations against what a machine reported of its guest. A problem is a sentence for the student. */
import { CarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import type { RunOrder, VcpuReport } from '#vmm/apart/order.ts';
import type { Bound, GuestExpectation, NamedRegister, VcpuExpectation } from '../format/guest.ts';
import { fileProblem, type FileSeen, fileSeen, type Judging, textProblem } from './expect.ts';
import { failed, type Outcome } from './outcome.ts';

export interface GuestSeen {
  readonly vcpus: readonly VcpuReport[];
  /** What the words of each report are. */
  readonly words: RunOrder['words'];
  readonly files: readonly FileSeen[];
}

function within(value: number, bound: Bound): boolean {
  if (typeof bound === 'number') return value === bound;
  return value >= (bound.min ?? 0) && value <= (bound.max ?? Number.POSITIVE_INFINITY);
}

function describe(bound: Bound): string {
  if (typeof bound === 'number') return String(bound);
  const { min, max } = bound;
  if (max === undefined) return `at least ${min}`;
  return min === undefined ? `at most ${max}` : `${min} to ${max}`;
}

/** What the machine should have told; a mark must not come of what it did not. */
function told(value: string | null | undefined, what: string): bigint {
  if (value === undefined || value === null)
    throw new CarrelError('internal', `the machine of a guest did not report ${what}`);
  return BigInt(value);
}

const exitsWord = (count: number): string => (count === 1 ? '1 exit' : `${count} exits`);

function countProblem(what: string, count: number, bound: Bound, reveal: boolean): string | undefined {
  if (within(count, bound)) return undefined;
  return reveal
    ? `took ${exitsWord(count)}${what}, expected ${describe(bound)}`
    : `did not take the expected number of exits${what}`;
}

function exitsProblem({ exits }: VcpuReport, expect: VcpuExpectation, reveal: boolean): string | undefined {
  for (const [reason, bound] of Object.entries(expect.exits ?? {})) {
    const count = reason === 'total' ? exits.total : (exits.byReason[reason] ?? 0);
    const problem = countProblem(reason === 'total' ? ' in all' : ` by ${reason}`, count, bound, reveal);
    if (problem !== undefined) return problem;
  }
  for (const [text, directions] of Object.entries(expect.ports ?? {}))
    for (const direction of ['in', 'out'] as const) {
      const bound = directions[direction];
      if (bound === undefined) continue;
      const port = Number(text);
      const found = exits.ports.find((each) => each.port === port && each.direction === direction);
      const what = ` by ${direction === 'in' ? 'in from' : 'out to'} port ${hex(port)}`;
      const problem = countProblem(what, found?.count ?? 0, bound, reveal);
      if (problem !== undefined) return problem;
    }
  return undefined;
}

/** Parts of RAX, by their width in bits; every other register has 64. */
const parts: Readonly<Partial<Record<NamedRegister, number>>> = { eax: 32, ax: 16 };

function valueProblem(
  what: string,
  value: { readonly found: bigint; readonly wanted: number | bigint; readonly bits: number },
  reveal: boolean,
): string | undefined {
  const { found, wanted, bits } = value;
  if (BigInt.asUintN(bits, found) === BigInt.asUintN(bits, BigInt(wanted))) return undefined;
  const shown = BigInt(wanted) < 0n ? BigInt.asIntN(bits, found) : BigInt.asUintN(bits, found);
  return reveal
    ? `left ${shown} in ${what}, expected ${wanted}`
    : `did not leave what is expected in ${what}`;
}

function registersProblem(
  { registers }: VcpuReport,
  expect: VcpuExpectation,
  reveal: boolean,
): string | undefined {
  for (const [name, wanted] of Object.entries(expect.registers ?? {})) {
    const part = name === 'eax' || name === 'ax' ? name : undefined;
    const found = told(registers[part === undefined ? name : 'rax'], name);
    const bits = part === undefined ? 64 : (parts[part] ?? 64);
    const problem = valueProblem(name.toUpperCase(), { found, wanted, bits }, reveal);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function memoryProblem(
  { words }: VcpuReport,
  asked: GuestSeen['words'],
  expect: VcpuExpectation,
  reveal: boolean,
): string | undefined {
  for (const { at, bytes, value } of expect.memory ?? []) {
    const index = asked.findIndex((each) => each.at === at && each.bytes === bytes);
    const what = `memory at ${hex(at)}`;
    const found = told(words[index], what);
    const problem = valueProblem(what, { found, wanted: value, bits: bytes * 8 }, reveal);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** How a guest failed that ended otherwise than expected. */
function endProblem({ end }: VcpuReport, wanted: string, who: string): Outcome | undefined {
  if (end.kind === wanted) return undefined;
  const reason =
    wanted === 'halted'
      ? `${who} did not halt: ${end.sentence}`
      : `${who} ended otherwise than by ${wanted}: ${end.sentence}`;
  return failed(reason, verdictOf(end.kind));
}

const crashes: ReadonlySet<string> = new Set(['fault', 'gave up', 'bad pointer']);

const verdictOf = (kind: string): 'timeout' | 'crashed' | 'failed' =>
  kind === 'time limit' ? 'timeout' : crashes.has(kind) ? 'crashed' : 'failed';

async function vcpuProblem(
  report: VcpuReport,
  expect: VcpuExpectation,
  words: GuestSeen['words'],
  judging: Judging,
): Promise<string | undefined> {
  const { reveal } = judging;
  const output = Buffer.from(report.output);
  return (
    (expect.output && (await textProblem('its output', output, expect.output, judging))) ??
    exitsProblem(report, expect, reveal) ??
    registersProblem(report, expect, reveal) ??
    memoryProblem(report, words, expect, reveal)
  );
}

/** What is wrong with a run; undefined if nothing. */
export async function guestProblem(
  { vcpus, words, files }: GuestSeen,
  expect: GuestExpectation,
  judging: Judging,
): Promise<Outcome | undefined> {
  for (const [index, report] of vcpus.entries()) {
    const who = vcpus.length === 1 ? 'the guest' : `vCPU ${index}`;
    const own = expect.vcpus?.[index];
    const ended = endProblem(report, own?.end ?? expect.end ?? 'halted', who);
    if (ended) return ended;
    for (const each of [expect, ...(own ? [own] : [])]) {
      const problem = await vcpuProblem(report, each, words, judging);
      if (problem !== undefined) return failed(`${who}: ${problem}`);
    }
  }
  for (const file of expect.files ?? []) {
    const found = files.find(({ path }) => path === file.path);
    const seen = found ?? fileSeen(file.path, { error: 'ENOENT' }, 0);
    // checks that share a run may allow a file different sizes
    const truncated = seen.truncated || (seen.content?.length ?? 0) > file.maxSize;
    const problem = await fileProblem({ ...seen, truncated }, file, judging);
    if (problem !== undefined) return failed(problem);
  }
  return undefined;
}
