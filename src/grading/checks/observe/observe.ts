/**
 * A machine is looked at from outside: by the kernel's word about its processes, by packets that our own code
 * sends, by files read through the kernel. No program of the machine is asked, since the student is root there
 * and may have replaced it.
 */
import { sleep } from '#base/deadline.ts';
import { CarrelError, errnoOf, isCarrelError } from '#base/errors.ts';
import { type ProcessIdentity, identify, isAlive } from '#host/processes.ts';
import { readInside } from '#machines/files.ts';
import { type MachineFileSpec, type ObserveSpec, subjectOf } from '../../format/kinds.ts';
import { type Outcome, failed, noVerdict, passed } from '../../judge/outcome.ts';
import { quote } from '../../judge/text.ts';
import type { FreshMachine } from '../../machine.ts';
import { observeMounts } from './mounts.ts';
import { observeInterface, observeListen, observePing } from './network.ts';
import { observeProcess } from './process.ts';

const maxFileBytes = 2 ** 20;

export interface Observed {
  readonly machine: FreshMachine;
  /** Processes found by checks before, by check. */
  readonly found: Map<string, ProcessIdentity>;
  /** Until when the machine may still get ready, on the clock of performance.now(). */
  readonly settledAt: number;
}

/**
 * How long a machine gets after its start steps until it must be as it should. What a student's script leaves in the
 * background takes its time on a busy host, and a mark must not depend on that.
 */
export const settleMs = 5000;
const lookEveryMs = 100;

async function observeFile(
  initPid: number,
  { path, contains, exact, absent }: MachineFileSpec,
  reveal: boolean,
): Promise<Outcome> {
  let bytes: Uint8Array;
  try {
    ({ bytes } = await readInside(initPid, path, { maxBytes: maxFileBytes }));
  } catch (error) {
    if (isCarrelError(error, 'not_found'))
      return absent ? passed(`${path} is not there`) : failed(`there is no file ${path}`);
    if (!isCarrelError(error) || !['invalid_request', 'forbidden', 'too_large'].includes(error.code))
      throw error;
    return failed(error.message);
  }
  if (absent) return failed(`${path} is there`);
  const text = Buffer.from(bytes).toString('utf8');
  const right = exact === undefined ? text.includes(contains ?? '') : text === exact;
  if (right) return passed(`${path} is as expected`);
  return failed(
    reveal
      ? `${path} ${exact === undefined ? `does not contain ${quote(contains ?? '')}` : `is ${quote(text)}, expected ${quote(exact)}`}`
      : `${path} is not as expected`,
  );
}

/**
 * Runs one observation, again until it passes or the machine has had its time. `id`: the check, under which a process
 * that it finds is remembered.
 */
export async function checkObserve(
  observed: Observed,
  id: string,
  spec: ObserveSpec,
  { reveal, signal }: { readonly reveal: boolean; readonly signal: AbortSignal },
): Promise<Outcome> {
  for (;;) {
    const outcome = await look(observed, id, spec, reveal);
    const final = outcome.verdict === 'passed' || outcome.verdict === 'error';
    if (final || performance.now() >= observed.settledAt) return outcome;
    await sleep(lookEveryMs, signal);
  }
}

async function look(
  { machine, found }: Observed,
  id: string,
  spec: ObserveSpec,
  reveal: boolean,
): Promise<Outcome> {
  const init = identify(machine.initPid);
  // it may be our fault; if it is the student's, every try ends like this, and no grade comes of it
  if (!init) throw new CarrelError('machine_lost', 'the machine ended while it was looked at');
  const subject = subjectOf(spec);
  const process = subject === undefined ? init : found.get(subject);
  if (!process) return noVerdict(`check ${subject} found no process to look at`);
  if (!isAlive(process)) return failed('the process has ended meanwhile');
  try {
    return await lookAt({ machine, found, process, id, spec, reveal });
  } catch (error) {
    // what /proc says of a process goes with it
    const vanished = ['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '') && !isAlive(process);
    if (vanished && process !== init) return failed('the process has ended meanwhile');
    throw error;
  }
}

async function lookAt({
  machine,
  found,
  process,
  id,
  spec,
  reveal,
}: Pick<Observed, 'machine' | 'found'> & {
  readonly process: ProcessIdentity;
  readonly id: string;
  readonly spec: ObserveSpec;
  readonly reveal: boolean;
}): Promise<Outcome> {
  if (spec.process) {
    const { outcome, process: seen } = await observeProcess(machine.initPid, spec.process, reveal);
    if (seen) found.set(id, seen);
    return outcome;
  }
  if (spec.ping) return await observePing(process, spec.ping);
  if (spec.interface) return observeInterface(process, spec.interface);
  if (spec.mounts) return observeMounts(process.pid, spec.mounts);
  if (spec.file) return await observeFile(machine.initPid, spec.file, reveal);
  if (!spec.listen) return noVerdict('nothing was to be observed');
  if (machine.address === null) return noVerdict('the machine has no address in the fabric');
  return await observeListen(machine.address, spec.listen, reveal);
}
