/** root's password in a container: changed by the container's own chpasswd(8), which knows where it is kept. */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { Keeper } from '#isolate/machine.ts';
import { newPassword } from '../../password.ts';
import { runProgram } from './programs.ts';

const limitMs = 20_000;

/**
 * Gives root a new random password and returns it. It goes in by standard input: arguments can be seen by every
 * process in the container. The method of hashing is named because busybox would take the one of 1979.
 */
export async function changePassword(keeper: Keeper): Promise<string> {
  const password = newPassword();
  const { end, stderr } = await change(keeper, `root:${password}\n`);
  if (end.kind === 'exited' && end.status === 0) return password;
  const said = Buffer.from(stderr, 'base64').toString().trim().slice(0, 500);
  throw new CarrelError(
    'helper_failed',
    `the machine could not change its password: ${said || JSON.stringify(end)}`,
  );
}

async function change(keeper: Keeper, line: string): ReturnType<typeof runProgram> {
  try {
    return await runProgram(
      keeper,
      {
        argv: ['chpasswd', '-c', 'SHA512'],
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
        cwd: '/',
        user: 'root',
        stdin: Buffer.from(line).toString('base64'),
        limitMs,
        outputBytes: 4096,
      },
      { signal: undefined, oomKills: () => 0 },
    );
  } catch (error) {
    // an image without that program
    if (isCarrelError(error, 'invalid_request') && error.details?.['errno'] === 'ENOENT')
      throw new CarrelError('driver_unsupported', 'there is no chpasswd in this machine', {
        hint: 'change the password on its console: carrel machine console',
        cause: error,
      });
    throw error;
  }
}
