/** For tests: what a shell in a machine says, through the service. */
import assert from 'node:assert/strict';
import { isCarrelError } from '#base/errors.ts';
import { type ProgramEnd, runRequest } from '#contract/schemas/machines.ts';
import type { Machines } from './service.ts';

/** An error with this code. */
export const isCode = (wanted: string) => (error: unknown) => isCarrelError(error) && error.code === wanted;

interface Said {
  readonly end: ProgramEnd;
  readonly out: string;
  readonly err: string;
}

/** How the script ended, and what it said. */
export async function tryShell(
  machines: Pick<Machines, 'run'>,
  id: string,
  script: string,
  limitMs = 10_000,
): Promise<Said> {
  const argv = ['sh', '-c', script];
  const { end, stdout, stderr } = await machines.run(id, runRequest.parse({ argv, cwd: '/', limitMs }));
  return { end, out: plain(stdout), err: plain(stderr) };
}

/** What it said; it ends with 0. */
export async function shell(
  machines: Pick<Machines, 'run'>,
  id: string,
  script: string,
  limitMs?: number,
): Promise<string> {
  const { end, out, err } = await tryShell(machines, id, script, limitMs);
  assert.deepEqual(end, { kind: 'exited', status: 0 }, out + err);
  return out;
}

function plain(base64: string): string {
  return Buffer.from(base64, 'base64').toString();
}
