/** A file from outside on its way in: counted, hashed, and not looked at by anybody before its hash is right. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Chunks } from '../archive/bytes.ts';

export interface ReceiveLimits {
  /** Length of the file. */
  readonly fileBytes: number;
  /** Of it, what is not zero: the rest becomes holes. */
  readonly storedBytes: number;
}

const blockBytes = 4096;
const zeros = Buffer.alloc(blockBytes);

/** Pieces of a chunk that hold something, in whole blocks of the file where possible. */
function* filled(
  chunk: Uint8Array,
  at: number,
): Generator<{ at: number; data: Uint8Array }, void, undefined> {
  let from = 0;
  let to = 0;
  while (to < chunk.length) {
    const length = Math.min(blockBytes - ((at + to) % blockBytes), chunk.length - to);
    const empty = zeros.subarray(0, length).equals(chunk.subarray(to, to + length));
    if (empty) {
      if (to > from) yield { at: at + from, data: chunk.subarray(from, to) };
      from = to + length;
    }
    to += length;
  }
  if (to > from) yield { at: at + from, data: chunk.subarray(from, to) };
}

/** Writes a stream to a new file; returns its length. `validation_failed` when its sha256 is not the promised one. */
export async function receiveFile(
  path: string,
  source: Chunks,
  {
    limits,
    sha256,
    signal,
  }: { limits: ReceiveLimits; sha256: string | undefined; signal: AbortSignal | undefined },
): Promise<number> {
  const hash = createHash('sha256');
  let length = 0;
  let stored = 0;
  const file = await open(path, 'wx', 0o600);
  try {
    for await (const chunk of source) {
      signal?.throwIfAborted();
      if (length + chunk.length > limits.fileBytes)
        throw new CarrelError('too_large', `The file is larger than ${formatSize(limits.fileBytes)}`);
      hash.update(chunk);
      for (const { at, data } of filled(chunk, length)) {
        stored += data.length;
        if (stored > limits.storedBytes)
          throw new CarrelError('too_large', `The file holds more than ${formatSize(limits.storedBytes)}`);
        for (let done = 0; done < data.length;) {
          const { bytesWritten } = await file.write(data, done, data.length - done, at + done);
          done += bytesWritten;
        }
      }
      length += chunk.length;
    }
    await file.truncate(length);
  } finally {
    await file.close();
  }
  const found = hash.digest('hex');
  if (sha256 !== undefined && sha256 !== found)
    throw new CarrelError('validation_failed', 'The file is not what was promised: its sha256 differs', {
      details: { expected: sha256, found },
    });
  return length;
}
