/** Our own programs that go into machines, as `make -C src/native` leaves them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';

const build = join(import.meta.dirname, '../../build');

/** `agent` answers the host in a running machine; `early` is the first program of its RAM disk. Both are static. */
export async function readNative(name: 'agent' | 'early'): Promise<Buffer> {
  try {
    return await readFile(join(build, name));
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    throw new CarrelError('host_unsupported', `the program ${name} for virtual machines is not built`, {
      hint: 'make -C src/native',
      cause: error,
    });
  }
}
