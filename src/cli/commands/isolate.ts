/** `carrel isolate PROGRAM`: the runtime as a plain command. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { CarrelError } from '#base/errors.ts';
import type { Action } from '../spec.ts';

export const isolateProgram = fileURLToPath(new URL('../../../build/isolate', import.meta.url));

const ignore = (): void => undefined;

export const isolate: Action = async ({ args }) => {
  if (!existsSync(isolateProgram))
    throw new CarrelError('host_unsupported', 'the isolation runtime is not built', {
      hint: 'npm run build:native',
    });
  const child = spawn(isolateProgram, [...args.program('program')], { stdio: 'inherit' });
  // a terminal's Ctrl-C reaches the child itself; we only wait for its end
  process.on('SIGINT', ignore);
  process.on('SIGQUIT', ignore);
  return await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, signal) => resolve(status ?? 128 + (signal ? constants.signals[signal] : 0)));
  });
};
