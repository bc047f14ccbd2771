/** The bytes of files as streams. */
import { createReadStream } from 'node:fs';

/** Opened when it is first read, so that the thousands of files of an image are not open all at once. */
export async function* fileData(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 18 }))
    if (Buffer.isBuffer(chunk)) yield chunk;
}
