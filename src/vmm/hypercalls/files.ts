/**
 * Files of the share. Two families: the one file of the assignment (open, read, write, close), and as many as one
 * likes by descriptor (file_*). The one file has a slot of its own, which no descriptor reaches.
 */
import { constants } from 'node:fs';
import { constants as os } from 'node:os';
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf, type Guest } from '../guest.ts';
import { type Hypercall, int, pointer, type Word } from './hypercall.ts';

const { O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = constants;
const { EALREADY, EBADF, EFAULT, EINVAL, ENAMETOOLONG } = os.errno;

const theOneFile = 0;
const knownFlags = O_RDONLY | O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
const longestPath = 255;

/** The path at a guest's pointer, or -errno. */
function pathAt(guest: Guest, at: Word | undefined): string | number {
  const bytes = addressSpaceOf(guest).readString(pointer(at));
  if (bytes instanceof BadAddress) return -EFAULT;
  return bytes.length > longestPath ? -ENAMETOOLONG : Buffer.from(bytes).toString('utf8');
}

function readInto(guest: Guest, slot: number, at: Word | undefined, length: number): number {
  if (length < 0) return -EINVAL;
  const space = addressSpaceOf(guest);
  // the whole buffer must be there before the file moves on
  const room = space.read(pointer(at), length);
  if (room instanceof BadAddress) return -EFAULT;
  const data = guest.share.read(slot, length);
  if (typeof data === 'number') return data;
  return space.write(pointer(at), data) instanceof BadAddress ? -EFAULT : data.length;
}

function writeFrom(guest: Guest, slot: number, at: Word | undefined, length: number): number {
  if (length < 0) return -EINVAL;
  const data = addressSpaceOf(guest).read(pointer(at), length);
  return data instanceof BadAddress ? -EFAULT : guest.share.write(slot, data);
}

export const open: Hypercall = {
  name: 'open',
  prototype: 'int open(const char *path)',
  doc: 'opens the one file, made if it is not there; reads from its start, writes at its end',
  run: (guest, [at]) => {
    if (guest.share.isOpen(theOneFile)) return -EALREADY;
    const path = pathAt(guest, at);
    if (typeof path === 'number') return path;
    return guest.share.open(path, O_RDWR | O_CREAT | O_APPEND, theOneFile);
  },
};

export const read: Hypercall = {
  name: 'read',
  prototype: 'int read(void *buffer, int length)',
  doc: 'reads from the one file; 0 at its end',
  run: (guest, [at, length]) =>
    guest.share.isOpen(theOneFile) ? readInto(guest, theOneFile, at, int(length)) : -EINVAL,
};

export const write: Hypercall = {
  name: 'write',
  prototype: 'int write(const void *buffer, int length)',
  doc: 'writes to the one file',
  run: (guest, [at, length]) =>
    guest.share.isOpen(theOneFile) ? writeFrom(guest, theOneFile, at, int(length)) : -EINVAL,
};

export const close: Hypercall = {
  name: 'close',
  prototype: 'int close(void)',
  doc: 'closes the one file',
  run: (guest) => guest.share.close(theOneFile),
};

export const fileOpen: Hypercall = {
  name: 'file_open',
  prototype: 'int file_open(const char *path, int flags)',
  doc: 'opens a file with the flags of open(2); a descriptor from 1 on',
  run: (guest, [at, flags]) => {
    const path = pathAt(guest, at);
    if (typeof path === 'number') return path;
    return (int(flags) & ~knownFlags) === 0 ? guest.share.open(path, int(flags)) : -EINVAL;
  },
};

/** A file's descriptor, or -EBADF for the one file's slot. */
const slotOf = (word: Word | undefined): number => (int(word) === theOneFile ? -EBADF : int(word));

export const fileRead: Hypercall = {
  name: 'file_read',
  prototype: 'int file_read(int file, void *buffer, int length)',
  doc: 'reads; 0 at the end of the file',
  run: (guest, [file, at, length]) => readInto(guest, slotOf(file), at, int(length)),
};

export const fileWrite: Hypercall = {
  name: 'file_write',
  prototype: 'int file_write(int file, const void *buffer, int length)',
  doc: 'writes',
  run: (guest, [file, at, length]) => writeFrom(guest, slotOf(file), at, int(length)),
};

export const fileSeek: Hypercall = {
  name: 'file_seek',
  prototype: 'int file_seek(int file, int offset, int whence)',
  doc: 'moves to an offset from the start (0), from here (1) or from the end (2); the new place',
  run: (guest, [file, offset, whence]) => guest.share.seek(slotOf(file), int(offset), int(whence)),
};

export const fileClose: Hypercall = {
  name: 'file_close',
  prototype: 'int file_close(int file)',
  doc: 'closes',
  run: (guest, [file]) => guest.share.close(slotOf(file)),
};
