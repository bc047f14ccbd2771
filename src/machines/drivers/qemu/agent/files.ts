/** Files of the guest, by the guest's own kernel: links, mounts and permissions are its business. */
import { CarrelError } from '#base/errors.ts';
import type { FileRead } from '../../../driver.ts';
import { createCollector } from './collector.ts';
import { doneOnly, exchange, unexpected } from './exchange.ts';
import { type InputStream, sendInput } from './input.ts';
import type { Channel, Link } from './link.ts';
import { payload, reading } from './payload.ts';
import { ask, tell } from './wire.ts';

const windowBytes = 512 << 10;
/** For a whole file; a guest under load needs a second for 16 MiB. */
const limitMs = 60_000;

/** `too_large` when it has more than `maxBytes`. */
export async function readGuestFile(
  link: Link,
  path: string,
  { maxBytes }: { maxBytes: number },
): Promise<FileRead> {
  const content = createCollector(maxBytes);
  let mode: number | undefined;
  let credit = windowBytes;
  let open: Channel | undefined;
  return await exchange<FileRead>(link, {
    type: ask.read,
    payload: payload().text(path).u64(maxBytes).u32(credit).done(),
    what: `${path} cannot be read in the machine`,
    limitMs,
    begin(channel) {
      open = channel;
    },
    answer(type, bytes) {
      if (type === tell.file && mode === undefined) {
        mode = reading(bytes).u32() & 0o7777;
        return undefined;
      }
      if (type === tell.done && mode !== undefined) return { value: { bytes: content.take(), mode } };
      if (type !== tell.stdout || mode === undefined) throw unexpected(type);
      credit -= bytes.length;
      if (credit < 0)
        throw new CarrelError(
          'machine_lost',
          "the machine's agent sent more of a file than it was asked for",
        );
      content.add(bytes);
      if (credit <= windowBytes / 2) {
        open?.send(
          ask.credit,
          payload()
            .u32(windowBytes - credit)
            .done(),
        );
        credit = windowBytes;
      }
      return undefined;
    },
  });
}

export async function writeGuestFile(
  link: Link,
  path: string,
  bytes: Uint8Array,
  { mode }: { mode: number },
): Promise<void> {
  let input: InputStream | undefined;
  await exchange(link, {
    type: ask.write,
    payload: payload()
      .text(path)
      .u32(mode & 0o7777)
      .done(),
    what: `${path} cannot be written in the machine`,
    limitMs,
    begin(channel) {
      input = sendInput(channel, bytes);
      input.go();
    },
    answer(type, content) {
      if (type !== tell.taken) return doneOnly(type);
      input?.taken(content);
      return undefined;
    },
  });
}
