/** Unpacks a stream with a stated compression, counting both sides; memory is one chunk and the window. */
import type { Transform } from 'node:stream';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGunzip, createGzip, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { CarrelError, messageOf } from '#base/errors.ts';
import type { Chunks } from './bytes.ts';
import type { Meter } from './limits.ts';

export const compressions = ['none', 'gzip', 'zstd'] as const;
export type Compression = (typeof compressions)[number];

const chunkSize = 2 ** 16;
/** The window a zstd stream may ask for, as a power of two: 32 MiB, enough for `zstd -19`, not `--ultra`. */
const zstdWindowLog = 25;

function decoder(compression: 'gzip' | 'zstd'): Transform {
  return compression === 'gzip'
    ? createGunzip({ chunkSize })
    : createZstdDecompress({ chunkSize, params: { [constants.ZSTD_d_windowLogMax]: zstdWindowLog } });
}

async function* counted(
  source: Chunks,
  count: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of source) {
    count(chunk.length);
    yield chunk;
  }
}

/** Runs chunks through a transform; the source is closed when the reader stops early. */
async function* through(
  source: Chunks,
  transform: Transform,
  failed: (error: unknown) => Error,
): AsyncGenerator<Uint8Array, void, undefined> {
  let failure: unknown;
  const feeding = pipeline(Readable.from(source, { objectMode: false }), transform).catch(
    (error: unknown) => {
      failure ??= error;
    },
  );
  try {
    for await (const chunk of transform) if (chunk instanceof Uint8Array) yield chunk;
  } catch (error) {
    throw failed(failure ?? error);
  } finally {
    transform.destroy();
    await feeding;
  }
}

/** The unpacked bytes of a stream. */
export async function* decompress(
  source: Chunks,
  compression: Compression,
  meter: Meter,
): AsyncGenerator<Uint8Array, void, undefined> {
  const packed = counted(source, (bytes) => meter.packed(bytes));
  if (compression === 'none') {
    yield* packed;
    return;
  }
  const failed = (error: unknown): Error =>
    error instanceof CarrelError
      ? error
      : new CarrelError(
          'invalid_archive',
          `The archive is not ${compression}, or is damaged: ${messageOf(error)}`,
          {
            cause: error,
          },
        );
  for await (const chunk of through(packed, decoder(compression), failed)) {
    meter.unpacked(chunk.length);
    yield chunk;
  }
}

/** The packed bytes of a stream. */
export async function* compress(
  source: Chunks,
  compression: Compression,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (compression === 'none') {
    yield* source;
    return;
  }
  const encoder = compression === 'gzip' ? createGzip({ chunkSize }) : createZstdCompress({ chunkSize });
  yield* through(source, encoder, (error) => (error instanceof Error ? error : new Error(messageOf(error))));
}
