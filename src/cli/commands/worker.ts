/** `carrel worker`: one more worker for the jobs of this host's cloud. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { constants } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { dataDirectory } from '../local/directory.ts';
import type { Action } from '../spec.ts';

const program = fileURLToPath(new URL('../../server/worker-main.ts', import.meta.url));

export const worker: Action = async ({ args }) => {
  const data = dataDirectory(args);
  if (!existsSync(program)) throw new CarrelError('host_unsupported', 'this build has no separate worker');
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, '--data', data], {
    stdio: 'inherit',
    env: { ...process.env, CARREL_DATA: data },
  });
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on('SIGTERM', pass);
  process.on('SIGINT', () => undefined); // the terminal sends it to the child as well
  return await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, signal) => resolve(status ?? 128 + (signal ? constants.signals[signal] : 0)));
  });
};
