/** poll(2): waits for descriptors, and serves those that are ready. */
import { constants } from 'node:os';
import { syscallError, trySyscall } from './syscalls.ts';

const POLLIN = 1;
const POLLOUT = 4;

export interface Source {
  readonly fd: number;
  readonly direction: 'in' | 'out';
  /** Is it of use now? One that is ready and not served would keep us awake. */
  readonly wanted: () => boolean;
  readonly serve: () => void;
}

/** Waits until a wanted source is ready (or has failed: serving it will tell), and serves all that are. */
export function pollOnce(sources: readonly Source[], timeoutMs: number): void {
  const wanted = sources.filter((source) => source.wanted());
  // struct pollfd: int fd, short events, short revents
  const list = new DataView(new ArrayBuffer(8 * wanted.length));
  for (const [index, { fd, direction }] of wanted.entries()) {
    list.setInt32(8 * index, fd, true);
    list.setInt16(8 * index + 4, direction === 'in' ? POLLIN : POLLOUT, true);
  }
  const result = trySyscall('poll', list, wanted.length, timeoutMs);
  if (result < 0 && result !== -constants.errno.EINTR) throw syscallError('poll', result);
  if (result <= 0) return;
  for (const [index, source] of wanted.entries())
    if (list.getInt16(8 * index + 6, true) !== 0) source.serve();
}
