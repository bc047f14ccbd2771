/**
 * A container is looked at by the kernel's word about its processes, by packets that our own code sends, by files read
 * through the kernel.
 */
import { CarrelError, errnoOf } from '#base/errors.ts';
import { type ProcessIdentity, identify, isAlive } from '#host/processes.ts';
import { readInside } from '#machines/files.ts';
import { type ObserveSpec, subjectOf } from '../../format/kinds.ts';
import { type Outcome, failed, noVerdict } from '../../judge/outcome.ts';
import type { FreshContainer } from '../../machine.ts';
import { observeMounts } from './mounts.ts';
import { observeInterface, observeListen, observePing } from './network.ts';
import { judgeFile, maxFileBytes, type Observer } from './observer.ts';
import { observeProcess } from './process.ts';

/**
 * How long a container gets after its start steps until it must be as it should. What a student's script leaves in the
 * background takes its time on a busy host, and a mark must not depend on that.
 */
const settleMs = 5000;

interface Look {
  readonly machine: FreshContainer;
  /** Processes found by checks before, by check. */
  readonly found: Map<string, ProcessIdentity>;
  readonly id: string;
  readonly spec: ObserveSpec;
  readonly reveal: boolean;
}

export function createContainerObserver(machine: FreshContainer): Observer {
  const settledAt = performance.now() + settleMs;
  const found: Look['found'] = new Map();
  return {
    look: (id, spec, { reveal }) => look({ machine, found, id, spec, reveal }),
    settled: async () => performance.now() >= settledAt,
  };
}

async function look(asked: Look): Promise<Outcome> {
  const { machine, found, spec } = asked;
  const init = identify(machine.initPid);
  // it may be our fault; if it is the student's, every try ends like this, and no grade comes of it
  if (!init) throw new CarrelError('machine_lost', 'the machine ended while it was looked at');
  const subject = subjectOf(spec);
  const process = subject === undefined ? init : found.get(subject);
  if (!process) return noVerdict(`check ${subject} found no process to look at`);
  if (!isAlive(process)) return failed('the process has ended meanwhile');
  try {
    return await lookAt(asked, process);
  } catch (error) {
    // what /proc says of a process goes with it
    const vanished = ['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '') && !isAlive(process);
    if (vanished && process !== init) return failed('the process has ended meanwhile');
    throw error;
  }
}

async function lookAt(
  { machine, found, id, spec, reveal }: Look,
  process: ProcessIdentity,
): Promise<Outcome> {
  if (spec.process) {
    const { outcome, process: seen } = await observeProcess(machine.initPid, spec.process, reveal);
    if (seen) found.set(id, seen);
    return outcome;
  }
  if (spec.ping?.address !== undefined) return await observePing(process, spec.ping.address);
  if (spec.interface) return observeInterface(process, spec.interface);
  if (spec.mounts) return observeMounts(process.pid, spec.mounts);
  const { file } = spec;
  if (file)
    return await judgeFile(
      file,
      reveal,
      async () => (await readInside(machine.initPid, file.path, { maxBytes: maxFileBytes })).bytes,
    );
  if (!spec.listen) return noVerdict('nothing was to be observed');
  if (machine.address === null) return noVerdict('the machine has no address in the fabric');
  return await observeListen(machine.address, spec.listen, reveal);
}
