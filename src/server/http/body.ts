/** Request bodies, read with a limit on bytes and on silence: memory stays bounded whatever a client sends. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';

/** How long a sender may be silent in the middle of a body. */
const SILENCE_MS = 30_000;

export function tooLarge(maxBytes: number): CarrelError {
  return new CarrelError('too_large', `the body is larger than ${formatSize(maxBytes)}`, {
    details: { maxBytes },
  });
}

/** Refuses by Content-Length, before anything is read. */
export function checkDeclaredLength(header: string | undefined, maxBytes: number): void {
  if (header !== undefined && Number(header) > maxBytes) throw tooLarge(maxBytes);
}

/** `application/json; charset=utf-8` -> `application/json`. */
export function mediaTypeOf(header: string | undefined): string | undefined {
  return header?.split(';', 1)[0]?.trim().toLowerCase();
}

/**
 * The body as a stream that fails with `too_large` beyond the limit and with `timeout` when the sender falls
 * silent. Pulls only when read, so a slow reader slows the sender down.
 */
export function limitStream(
  body: ReadableStream<Uint8Array>,
  { maxBytes, silenceMs = SILENCE_MS }: { maxBytes: number; silenceMs?: number },
): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  let total = 0;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await readWithin(reader, silenceMs);
          if (done) return controller.close();
          total += value.length;
          if (total > maxBytes) throw tooLarge(maxBytes);
          controller.enqueue(value);
        } catch (error) {
          await giveUp(reader);
          controller.error(error);
        }
      },
      cancel: () => giveUp(reader),
    },
    { highWaterMark: 0 },
  );
}

async function giveUp(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  // A sender that is gone makes this fail too, which changes nothing.
  await reader.cancel().catch(() => undefined);
}

async function readWithin(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  ms: number,
): ReturnType<ReadableStreamDefaultReader<Uint8Array>['read']> {
  let timer: NodeJS.Timeout | undefined;
  const silent = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new CarrelError('timeout', `nothing came for ${ms} ms in the middle of the body`)),
      ms,
    );
  });
  try {
    return await Promise.race([reader.read(), silent]);
  } catch (error) {
    if (error instanceof CarrelError) throw error;
    throw new CarrelError('cancelled', 'the sender went away in the middle of the body', { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** The whole body; `too_large` as soon as it is. */
export async function readAll(
  body: ReadableStream<Uint8Array> | null,
  maxBytes: number,
): Promise<Uint8Array> {
  if (!body) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  for await (const chunk of limitStream(body, { maxBytes })) chunks.push(chunk);
  return chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks);
}
