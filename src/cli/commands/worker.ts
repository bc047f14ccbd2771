/** `carrel worker`: one more worker for the jobs of this host's cloud. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { constants } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { formatAddress } from '#fabric/addresses.ts';
import { controlPath } from '#fabric/doorman.ts';
import { fabricVariable, ownAddresses, type FabricEnvironment } from '#fabric/environment.ts';
import { resolverAddress } from '#fabric/uplink.ts';
import { askDoorman, dataDirectory, recorded } from '../local/directory.ts';
import type { Action } from '../spec.ts';

const program = fileURLToPath(new URL('../../server/worker-main.ts', import.meta.url));

export const worker: Action = async ({ args }) => {
  const data = dataDirectory(args);
  if (!existsSync(program)) throw new CarrelError('host_unsupported', 'this build has no separate worker');
  const doorman = await askDoorman(data);
  const holder = await recorded(data, 'fabric.json');
  if (!doorman || !holder)
    throw new CarrelError('unavailable', `no cloud is up in ${data}`, { hint: 'start it with: carrel up' });
  const fabric: FabricEnvironment = {
    netns: doorman.netns,
    hostAddresses: ownAddresses(),
    resolver: formatAddress(resolverAddress),
    control: controlPath(data),
  };
  // a worker makes machines too: it works where their wires are, in the fabric, and ends with this command
  // (entered through its holder: a daemon that has just been started is still outside for a moment)
  const inside = [`--net=/proc/${holder.pid}/ns/net`, 'setpriv', '--pdeathsig', 'TERM', '--'];
  const own = [process.execPath, '--disable-warning=ExperimentalWarning', program, '--data', data];
  const child = spawn('nsenter', [...inside, ...own], {
    stdio: 'inherit',
    env: { ...process.env, CARREL_DATA: data, [fabricVariable]: JSON.stringify(fabric) },
  });
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on('SIGTERM', pass);
  process.on('SIGINT', () => undefined); // the terminal sends it to the child as well
  return await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, signal) => resolve(status ?? 128 + (signal ? constants.signals[signal] : 0)));
  });
};
