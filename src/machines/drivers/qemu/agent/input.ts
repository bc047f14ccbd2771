/** Input for a channel, as fast as the guest takes it. */
import { CarrelError } from '#base/errors.ts';
import type { Channel } from './link.ts';
import { reading } from './payload.ts';
import { ask, inputWindowBytes, maxPayloadBytes } from './wire.ts';

export interface InputStream {
  /** Sends what the window allows. */
  go(): void;
  /** A `taken` frame: the guest has passed so much on. */
  taken(payload: Buffer): void;
}

/** All of `bytes`, then the end. */
export function sendInput(channel: Channel, bytes: Uint8Array): InputStream {
  let at = 0;
  let window = inputWindowBytes;
  let ended = false;
  const go = (): void => {
    while (window > 0 && at < bytes.length) {
      const piece = bytes.subarray(at, at + Math.min(window, maxPayloadBytes));
      channel.send(ask.input, piece);
      at += piece.length;
      window -= piece.length;
    }
    if (at < bytes.length || ended) return;
    ended = true;
    channel.send(ask.inputEnd);
  };
  return {
    go,
    taken(payload) {
      window += reading(payload).u32();
      if (window > inputWindowBytes)
        throw new CarrelError('machine_lost', "the machine's agent took more input than it was given");
      go();
    },
  };
}
