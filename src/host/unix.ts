/** Listening unix sockets as plain descriptors, to be handed to another program (unix(7)). */
import { rmSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from './fds.ts';
import { syscall } from './syscalls.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
/** struct sockaddr_un: the family, and a path that ends with a NUL. */
const PATH_BYTES = 108;

/**
 * A stream socket that listens at `path`, where whatever was there is removed. The caller must be the only one who
 * may write to the directory. The file stays when the descriptor is closed.
 */
export function listenUnix(path: string, { backlog = 16 }: { backlog?: number } = {}): Fd {
  const name = Buffer.from(path);
  if (name.length >= PATH_BYTES)
    throw new CarrelError(
      'invalid_request',
      `the path of a socket has at most ${PATH_BYTES - 1} bytes: ${path}`,
      {
        hint: 'choose a data directory with a shorter path',
      },
    );
  rmSync(path, { force: true });
  const address = Buffer.alloc(2 + PATH_BYTES);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const socket = ownFd(syscall('socket', AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  try {
    syscall('bind', socket.fd, address, address.length);
    syscall('listen', socket.fd, backlog);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}
