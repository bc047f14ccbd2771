/**
 * A process's identity that survives pid reuse: pid and start time (proc_pid_stat(5), field 22, clock ticks
 * since boot). A record of both may be kept in a file; a pid alone may not be signalled later.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { type Fd, ownFd } from './fds.ts';
import { syscallErrno, syscallError, trySyscall } from './syscalls.ts';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, as text: it is only ever compared. */
  readonly startTime: string;
}

export interface ProcessStat extends ProcessIdentity {
  readonly name: string;
  /** R, S, D, T, Z (zombie), X ... */
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
}

/** Parses /proc/<pid>/stat. The name may hold blanks and parentheses: it ends at the last one. */
export function parseStat(text: string): ProcessStat | undefined {
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  const pid = Number(text.slice(0, open));
  if (open < 1 || close < open || !Number.isInteger(pid)) return undefined;
  const fields = text
    .slice(close + 2)
    .trim()
    .split(' ');
  const [state, parent, group, session] = fields;
  const startTime = fields[19];
  if (state === undefined || startTime === undefined || !/^\d+$/.test(startTime)) return undefined;
  return {
    pid,
    name: text.slice(open + 1, close),
    state,
    parent: Number(parent),
    group: Number(group),
    session: Number(session),
    startTime,
  };
}

/** The process's stat, or undefined when it does not exist. */
export function statOf(pid: number): ProcessStat | undefined {
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return undefined;
    throw error;
  }
}

/** Pid and start time of a process that exists and is no zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  const stat = statOf(pid);
  return stat && !isDead(stat.state) ? { pid: stat.pid, startTime: stat.startTime } : undefined;
}

/** A zombie only waits to be counted: it runs nothing and holds nothing. */
function isDead(state: string): boolean {
  return state === 'Z' || state === 'X' || state === 'x';
}

/** Is this very process (not a later one with its pid) running? */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return identify(pid)?.startTime === startTime;
}

/**
 * A descriptor for this very process, or undefined if it is gone. The identity is checked after opening:
 * from then on the descriptor cannot come to mean another process (pidfd_open(2)).
 */
export function openProcess(identity: ProcessIdentity): Fd | undefined {
  const fd = trySyscall('pidfd_open', identity.pid, 0);
  if (fd < 0) {
    const error = syscallError('pidfd_open', fd, `${identity.pid}`);
    if (syscallErrno(error) === 'ESRCH') return undefined;
    throw error;
  }
  const process = ownFd(fd);
  if (isAlive(identity)) return process;
  process.close();
  return undefined;
}

/** Sends a signal to this very process; false if it is gone. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  using process = openProcess(identity);
  if (!process) return false;
  const result = trySyscall('pidfd_send_signal', process.fd, constants.signals[signal], null, 0);
  if (result < 0) {
    const error = syscallError('pidfd_send_signal', result, `${signal} to ${identity.pid}`);
    if (syscallErrno(error) === 'ESRCH') return false;
    throw error;
  }
  return true;
}

/** Waits until this very process is gone. */
export async function untilGone(
  identity: ProcessIdentity,
  ms: number,
  what = `process ${identity.pid}`,
): Promise<void> {
  await until(ms, `${what} to end`, () => (isAlive(identity) ? undefined : true));
}

/** Asks with SIGTERM, waits `graceMs`, then kills; resolves when it is gone. */
export async function endProcess(
  identity: ProcessIdentity,
  { graceMs = 2000, killMs = 5000 } = {},
): Promise<void> {
  if (graceMs > 0 && signalProcess(identity, 'SIGTERM'))
    try {
      return await untilGone(identity, graceMs);
    } catch {
      // it did not listen
    }
  if (signalProcess(identity, 'SIGKILL')) await untilGone(identity, killMs);
}
