/** Programs in a container: short ones that are waited for, kept ones that go on, and the console. */
import { CarrelError } from '#base/errors.ts';
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import { isLocked } from '#host/flock.ts';
import { errnoName } from '#host/syscalls.ts';
import { collect, type Exec } from '#isolate/live.ts';
import { execPaths, type ExecSpec, type Keeper } from '#isolate/machine.ts';
import type { ExecRequest, Terminal } from '../../driver.ts';
import { endOf, openKept } from '../terminal.ts';

/** The console's name among the kept programs. */
export const consoleExec = 'console';

/**
 * A container has no login: its console is a shell of root's, begun when somebody first looks, begun again when
 * it ends, and going on when nobody looks.
 */
const consoleShell: ExecRequest = {
  argv: ['/bin/sh', '-c', 'while :; do if [ -x /bin/bash ]; then /bin/bash -l; else /bin/sh -l; fi; done'],
  env: {},
  cwd: '/root',
  user: 'root',
  tty: { rows: 24, columns: 80 },
};

/** Runs a program to its end. */
export async function runProgram(
  keeper: Keeper,
  request: RunRequest,
  { signal, oomKills }: { signal: AbortSignal | undefined; oomKills: () => number },
): Promise<RunReply> {
  const { argv, env, cwd, user, stdin, limitMs, outputBytes } = request;
  signal?.throwIfAborted();
  const killedBefore = oomKills();
  const exec = await begin(keeper, {
    argv,
    env,
    cwd,
    user,
    stdin: stdin === '' ? null : Buffer.from(stdin, 'base64'),
    limits: { wallMs: limitMs, outputBytes },
  });
  const cancel = (): void => exec.kill();
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    const { report, stdout, stderr } = await collect(exec);
    if (report.execErrno !== 0) throw notExecuted(argv[0], errnoName(report.execErrno));
    return {
      end: endOf({ ...report, oomKills: report.signal === 'SIGKILL' ? oomKills() - killedBefore : 0 }),
      stdout: stdout.toString('base64'),
      stderr: stderr.toString('base64'),
      wallMs: report.wallMs,
    };
  } catch (error) {
    throw translated(error, argv[0]);
  } finally {
    signal?.removeEventListener('abort', cancel);
    exec.close();
  }
}

/** Starts a program that goes on without us, under an id of its own. */
export async function keepProgram(keeper: Keeper, id: string, request: ExecRequest): Promise<void> {
  const { argv, env, cwd, user, tty } = request;
  const exec = await begin(keeper, {
    argv,
    env,
    cwd,
    user,
    keep: { id },
    ...(tty ? { tty } : {}),
  });
  exec.close();
}

/** The console; its shell is started if it does not run. */
export async function openConsole(keeper: Keeper, directory: string): Promise<Terminal> {
  if (!isLocked(execPaths(directory, consoleExec).lock)) await keepProgram(keeper, consoleExec, consoleShell);
  return openKept(directory, consoleExec);
}

/** Does the machine answer a command? Which one does not matter, not even whether the image has it. */
export async function answers(keeper: Keeper, limitMs: number): Promise<void> {
  const exec = await keeper.exec({ argv: ['/bin/true'], limits: { wallMs: limitMs, outputBytes: 1024 } });
  try {
    await collect(exec);
  } finally {
    exec.close();
  }
}

async function begin(keeper: Keeper, spec: ExecSpec): Promise<Exec> {
  try {
    return await keeper.exec(spec);
  } catch (error) {
    throw translated(error, spec.argv[0]);
  }
}

function notExecuted(program: string | undefined, errno: string): CarrelError {
  const why =
    errno === 'ENOENT' ? 'there is no such program' : errno === 'EACCES' ? 'it may not be executed' : errno;
  return new CarrelError('invalid_request', `${program} cannot be run in the machine: ${why}`, {
    details: { errno },
  });
}

/** Which step of a start is the caller's mistake. */
const mistakes: Readonly<Record<string, string>> = {
  user: 'there is no such user in the machine',
  cwd: 'there is no such directory in the machine',
};

function translated(error: unknown, program: string | undefined): unknown {
  const { op, object, code } = error instanceof CarrelError ? (error.details ?? {}) : {};
  if (code === 'EAGAIN')
    return new CarrelError(
      'no_capacity',
      `${program} cannot be run: the machine has as many processes as it may have`,
      {
        hint: 'end some of them on its console, or restart the machine',
        cause: error,
      },
    );
  if (typeof op === 'string' && mistakes[op] !== undefined)
    return new CarrelError('invalid_request', `${program} cannot be run as asked: ${mistakes[op]}`, {
      details: { object },
      cause: error,
    });
  const early =
    error instanceof CarrelError ? /before it was under way \(error (\d+)\)/.exec(error.message) : null;
  return early ? notExecuted(program, errnoName(Number(early[1]))) : error;
}
