/** The data directory of a cloud on this host, and what its files say. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { errnoOf } from '#base/errors.ts';
import { controlPath } from '#fabric/doorman.ts';
import { doormanStatus, type DoormanStatus } from '#fabric/control.ts';
import { isLocked, readLockNote } from '#host/flock.ts';
import { identify, isAlive, type ProcessIdentity } from '#host/processes.ts';
import type { Arguments } from '../arguments.ts';
import { defaultDataDirectory } from '../connection.ts';

/** --data, else CARREL_DATA, else /var/lib/carrel. */
export function dataDirectory(args: Arguments, env: NodeJS.ProcessEnv = process.env): string {
  return resolve(args.option('data') ?? env['CARREL_DATA'] ?? defaultDataDirectory);
}

/** What the cgroups of a data directory are called: `carrel-` and 8 hex digits of its real path's hash. */
export async function groupName(data: string): Promise<string> {
  const real = await realpath(data);
  return `carrel-${createHash('sha256').update(real).digest('hex').slice(0, 8)}`;
}

const identity = z.looseObject({ pid: z.int().positive(), startTime: z.string() });

/** The process that DIR/run/NAME records, if that very process is alive. */
export async function recorded(data: string, name: string): Promise<ProcessIdentity | undefined> {
  try {
    const parsed = identity.safeParse(JSON.parse(await readFile(join(data, 'run', name), 'utf8')));
    return parsed.success && isAlive(parsed.data)
      ? { pid: parsed.data.pid, startTime: parsed.data.startTime }
      : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** The doorman's process: whoever holds its lock. */
export function doormanProcess(data: string): ProcessIdentity | undefined {
  const path = join(data, 'run', 'doorman.lock');
  if (!isLocked(path)) return undefined;
  const pid = Number(readLockNote(path)?.trim());
  return Number.isInteger(pid) && pid > 0 ? identify(pid) : undefined;
}

/** What the doorman says, or undefined if none answers. */
export async function askDoorman(data: string): Promise<DoormanStatus | undefined> {
  if (!existsSync(controlPath(data))) return undefined;
  return await doormanStatus(controlPath(data)).catch(() => undefined);
}
