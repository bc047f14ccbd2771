/**
 * Commands for a guest without our agent: typed on its serial line by somebody who logs in there. What the host
 * tells the machine of itself (seed.ts, cloudinit.ts) includes a password that nobody but the host's root can read; an
 * image that listens to neither must let root in on its console without one.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { Terminal } from '../../driver.ts';
import { newPassword } from '../../password.ts';
import { openConsole } from '../terminal.ts';
import { secretsOf, writeSecrets } from './identity.ts';
import { hashPassword } from './password.ts';
import { runOverSerial } from './serial/run.ts';
import { vmPaths } from './spec.ts';

/** To a prompt of root's, under emulation. */
const loginMs = 60_000;

const passwordPath = (directory: string): string => join(directory, 'serial-password');

/** Gives root a password for the serial line, once; before the machine's first start. */
export async function giveSerialPassword(directory: string): Promise<void> {
  if ((await readPassword(directory)) !== '') return;
  const password = newPassword();
  const { identity } = vmPaths(directory);
  await writeSecrets(identity, {
    ...(await secretsOf(identity)),
    passwordHash: await hashPassword(password),
  });
  await writeFileAtomic(passwordPath(directory), password, { mode: 0o600 });
}

async function readPassword(directory: string): Promise<string> {
  try {
    return await readFile(passwordPath(directory), 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  }
}

/** Runs programs on a machine's console, one after the other. */
export function createSerialRunner(
  directory: string,
): (request: RunRequest, options?: { signal?: AbortSignal }) => Promise<RunReply> {
  let terminal: Promise<Terminal> | undefined;
  return async (request, { signal } = {}) => {
    terminal ??= openConsole(directory);
    terminal.catch(() => {
      terminal = undefined; // the next one tries again
    });
    const login = { user: 'root', password: await readPassword(directory) };
    return runOverSerial(await terminal, request, { login, limitMs: loginMs, signal });
  };
}
