/** Writes tar archives: ustar headers, with a pax header before those whose values do not fit. */
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './bytes.ts';
import { quoteName } from './paths.ts';
import { blockBytes, fits, formatHeader, formatPax } from './tarheader.ts';

export interface TarInput {
  readonly path: string;
  readonly kind: 'file' | 'directory' | 'symlink' | 'hardlink' | 'fifo';
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since 1970; 0 by default, so that equal trees give equal archives. */
  readonly mtime?: number;
  /** Target of a link. */
  readonly link?: string;
  /** Of a file; its data must have exactly this many bytes. */
  readonly size?: number;
  readonly data?: Chunks | Iterable<Uint8Array>;
}

const flags = { file: '0', hardlink: '1', symlink: '2', directory: '5', fifo: '6' } as const;
const modes = { file: 0o644, hardlink: 0o644, symlink: 0o777, directory: 0o755, fifo: 0o644 } as const;

function pad(size: number): Buffer {
  return Buffer.alloc((blockBytes - (size % blockBytes)) % blockBytes);
}

function headers(input: TarInput): Buffer {
  const { kind, mode = modes[kind], uid = 0, gid = 0, mtime = 0, link = '', size = 0 } = input;
  const path = kind === 'directory' && !input.path.endsWith('/') ? `${input.path}/` : input.path;
  const fields = { path, flag: flags[kind], mode: mode & 0o7777, uid, gid, size, mtime, link };
  const records: Buffer[] = [];
  if (!fits.text(path, 100)) records.push(formatPax('path', path));
  if (!fits.text(link, 100)) records.push(formatPax('linkpath', link));
  if (!fits.number(size, 11)) records.push(formatPax('size', String(size)));
  if (!fits.number(uid, 7)) records.push(formatPax('uid', String(uid)));
  if (!fits.number(gid, 7)) records.push(formatPax('gid', String(gid)));
  if (records.length === 0) return formatHeader(fields);
  const body = Buffer.concat(records);
  const extension = {
    ...fields,
    path: 'PaxHeaders/entry',
    flag: 'x',
    mode: 0o644,
    size: body.length,
    link: '',
  };
  return Buffer.concat([formatHeader(extension), body, pad(body.length), formatHeader(fields)]);
}

/** The archive's bytes. Fails when a file's data is not as long as promised: it changed while being read. */
export async function* writeTar(
  entries: AsyncIterable<TarInput> | Iterable<TarInput>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const input of entries) {
    yield headers(input);
    if (input.kind !== 'file') continue;
    const size = input.size ?? 0;
    let written = 0;
    for await (const chunk of input.data ?? []) {
      written += chunk.length;
      if (written > size) break;
      yield chunk;
    }
    if (written !== size)
      throw new CarrelError('wrong_state', `${quoteName(input.path)} changed while it was being packed`);
    yield pad(size);
  }
  yield Buffer.alloc(2 * blockBytes);
}
