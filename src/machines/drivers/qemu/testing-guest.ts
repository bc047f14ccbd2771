/** For tests of virtual machines: a shell in one, and its end. */
import assert from 'node:assert/strict';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import type { MachineSpec, RunningMachine } from '../../driver.ts';
import type { VmBed } from './testing.ts';

/** An error with this code. */
export const isCode = (code: ErrorCode) => (error: unknown) => isCarrelError(error, code);

/** What a script says that ends with 0. */
export async function shellIn(machine: RunningMachine, script: string): Promise<string> {
  const { stdout, stderr, end } = await machine.run(
    runRequest.parse({ argv: ['/bin/sh', '-c', script], cwd: '/' }),
  );
  assert.deepEqual(end, { kind: 'exited', status: 0 }, Buffer.from(stderr, 'base64').toString());
  return Buffer.from(stdout, 'base64').toString();
}

/** Ends it at once; its disk stays. */
export async function pullPlug(
  { driver }: Pick<VmBed, 'driver'>,
  spec: MachineSpec,
  machine: RunningMachine,
): Promise<void> {
  await machine.stop({ graceMs: 0 });
  machine.release();
  await driver.tidy(spec);
}
