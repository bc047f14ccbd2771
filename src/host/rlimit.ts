/** Limits of other processes. */
import { launchOk } from './launch.ts';
import { isAlive, type ProcessIdentity } from './processes.ts';

/**
 * From now on the process makes no file longer than so many bytes, and cannot change that. Lowers only. With `forNow` it
 * is the soft limit alone (setrlimit(2)): that one can be raised again, up to the hard one. False if the process is gone;
 * `helper_failed` when it may not be.
 *
 * Said by a process of its own user: that may always be done (prlimit(2)), while root needs CAP_SYS_RESOURCE, which
 * many containers do not give.
 */
export async function lowerFileLimit(
  process: ProcessIdentity,
  { uid, bytes, forNow = false }: { readonly uid: number; readonly bytes: number; readonly forNow?: boolean },
): Promise<boolean> {
  if (!isAlive(process)) return false;
  // setpriv: ids of ours are beyond what Node takes as `uid` (31 bits)
  const become = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups'] as const;
  try {
    await launchOk([...become, 'prlimit', `--pid=${process.pid}`, `--fsize=${bytes}${forNow ? ':' : ''}`]);
    return true;
  } catch (error) {
    if (isAlive(process)) throw error;
    return false; // it has ended meanwhile
  }
}
