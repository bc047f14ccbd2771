/**
 * A compiled guest is run by our VMM in a process of its own: a sandbox with the descriptor of /dev/kvm, and nothing
 * of the student's in it but the guest's bytes and the share. What it reports is judged elsewhere.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { SandboxReport } from '#isolate/sandbox.ts';
import { kvmFor } from '#vmm/apart/device.ts';
import { machineCommand, seenInside } from '#vmm/apart/inside.ts';
import { mostWords, type RunOrder, type RunReport, runReport } from '#vmm/apart/order.ts';
import { findFact } from '#vmm/inspect/facts.ts';
import { windowBytes } from '#vmm/layout.ts';
import { type CheckContext, keep, readTest } from '../../context.ts';
import type { GuestRun } from '../../format/guest.ts';
import type { Check } from '../../format/lab.ts';
import type { Limits } from '../../format/limits.ts';
import { describeEnd, type Outcome } from '../../judge/outcome.ts';
import { type FileSeen, fileSeen } from '../../judge/expect.ts';
import { compileGuestOf } from './compile.ts';

/** What a run left: the machine's own report, and files of the share. */
export interface Ran {
  readonly report: Exclude<RunReport, { readonly refused: string }>;
  /** What the words of the report are. */
  readonly words: RunOrder['words'];
  /** Of the files that some check of the lab looks at. */
  readonly files: readonly FileSeen[];
  readonly process: SandboxReport;
}

/** A guest that cannot even begin. */
export interface Refused {
  readonly refused: string;
}

/** Node, its libraries' data and the VMM beside the guest's memory. */
const ownBytes = 256 * 2 ** 20;
const ownCpuMs = 30_000;
const ownWallMs = 60_000;
const ownThreads = 48;
const ownOutputBytes = 2 ** 20;
/** A byte of output as JSON has it at worst: `\u0000`. */
const bytesOfOne = 6;

const shareInside = 'share';
const orderInside = 'order.json';
const guestInside = 'guest';

/** Is it the same run? What is expected of it is not part of it. */
const keyOf = (
  { file, test, with: more, files, kit, mode, vcpus, ports, share, runs }: GuestRun,
  { wallMs, outputBytes, tmpBytes, tmpFiles, fileBytes }: Limits,
): string =>
  JSON.stringify([
    [file, test, more, files, kit, mode, vcpus, ports, share, runs],
    [wallMs, outputBytes, tmpBytes, tmpFiles, fileBytes],
  ]);

const runOf = ({ what }: Check): GuestRun | undefined =>
  what.kind === 'guest' ? what.guest : what.kind === 'answers' ? what.answers.guest : undefined;

/** What all checks of the lab want to know of this run, so that it is done once. */
function wantedOf({ folder }: CheckContext, key: string) {
  const checks = folder.lab.checks.filter((check) => {
    const run = runOf(check);
    return run && keyOf(run, check.limits) === key;
  });
  const expectations = checks.flatMap(({ what }) => (what.kind === 'guest' ? [what.guest.expect] : []));
  const memory = expectations.flatMap((expect) => [
    ...(expect.memory ?? []),
    ...(expect.vcpus ?? []).flatMap((vcpu) => vcpu.memory ?? []),
  ]);
  const words = new Map(memory.map(({ at, bytes }) => [`${at} ${bytes}`, { at, bytes }]));
  if (words.size > mostWords)
    throw new CarrelError(
      'lab_invalid',
      `the checks of one run of a guest look at ${words.size} words of memory, and ${mostWords} are the most`,
    );
  const files = new Map<string, number>();
  for (const { path, maxSize } of expectations.flatMap((expect) => expect.files ?? []))
    files.set(path, Math.max(files.get(path) ?? 0, maxSize));
  const facts = checks.flatMap(({ what }) =>
    what.kind === 'answers' ? Object.values(what.answers.questions) : [],
  );
  return { words: [...words.values()], files, facts: [...new Set(facts)].filter(findFact) };
}

async function shareFiles(
  context: CheckContext,
  { share = [] }: GuestRun,
): Promise<{ host: string; guest: string }[]> {
  return await Promise.all(
    share.map(async ({ path, text, from }) => ({
      host: await keep(
        context,
        newId('exec'),
        from === undefined ? Buffer.from(text ?? '') : await readTest(context, from),
        0o644,
      ),
      guest: `${shareInside}/${path}`,
    })),
  );
}

/** Runs it; the process of the VMM has limits that no guest reaches before its own, so reaching them is our fault. */
async function runProcess(
  context: CheckContext,
  run: GuestRun,
  { program, limits, key }: { program: string; limits: Limits; key: string },
): Promise<Ran | Refused> {
  using kvm = await kvmFor(run.mode, run.vcpus);
  const { words, files, facts } = wantedOf(context, key);
  const order: RunOrder = {
    guest: guestInside,
    mode: run.mode,
    vcpus: run.vcpus,
    ports: run.ports,
    limitMs: limits.wallMs,
    outputBytes: limits.outputBytes,
    share: run.share ? shareInside : null,
    room: null, // its directory has limits of its own
    runs: run.runs,
    live: false,
    words,
    facts,
  };
  const root = join(context.scratch, 'empty');
  await mkdir(root, { recursive: true, mode: 0o755 });
  const report = await context.sandboxes.run(
    {
      root,
      argv: machineCommand(orderInside),
      inputs: seenInside(),
      work: [
        {
          host: await keep(context, newId('exec'), Buffer.from(JSON.stringify(order)), 0o644),
          guest: orderInside,
        },
        { host: program, guest: guestInside },
        ...(await shareFiles(context, run)),
      ],
      result: true,
      descriptors: [kvm.fd],
      // one byte more than allowed, so that a file that is too large is seen to be
      collect: [...files].map(([path, most]) => ({ path: `${shareInside}/${path}`, maxBytes: most + 1 })),
      limits: {
        cpuMs: ownCpuMs + run.runs * run.vcpus * limits.wallMs,
        wallMs: ownWallMs + run.runs * limits.wallMs,
        memoryBytes: ownBytes + run.vcpus * windowBytes + limits.tmpBytes,
        processes: ownThreads + run.vcpus,
        outputBytes: ownOutputBytes + run.vcpus * limits.outputBytes * bytesOfOne,
        tmpBytes: limits.tmpBytes,
        tmpFiles: limits.tmpFiles,
        fileBytes: limits.fileBytes,
      },
    },
    { signal: context.signal },
  );
  if (report.end.kind !== 'exited' || report.end.status !== 0)
    throw new CarrelError('helper_failed', `the machine of a guest ${describeEnd(report)}`, {
      hint: 'it is no fault of the guest: grade again',
      details: { stderr: report.stderr.toString('utf8').slice(0, 2000) },
    });
  const said = runReport.parse(JSON.parse(report.result.toString('utf8')));
  if ('refused' in said) return said;
  // a report about fewer would be judged by what it leaves out
  if (said.vcpus.length !== run.vcpus)
    throw new CarrelError(
      'helper_failed',
      `the machine of a guest reported ${said.vcpus.length} vCPUs of ${run.vcpus}`,
    );
  const seen = [...files].map(([path, most], index) =>
    fileSeen(path, report.files[index] ?? { error: 'ENOENT' }, most),
  );
  return { report: said, words, files: seen, process: report };
}

/**
 * Compiles and runs a guest, once for all checks that share the run. An outcome says why there is nothing to judge:
 * it does not compile, or is no guest.
 */
export async function runGuest(
  context: CheckContext,
  run: GuestRun,
  limits: Limits,
): Promise<Ran | Refused | Outcome> {
  const program = await compileGuestOf(context, run);
  if ('verdict' in program) return program;
  const key = keyOf(run, limits);
  const ran = context.guests.get(key) ?? runProcess(context, run, { program: program.host, limits, key });
  context.guests.set(key, ran);
  return await ran;
}
