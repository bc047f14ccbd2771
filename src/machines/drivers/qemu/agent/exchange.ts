/** One question and its answer, with a limit: the part that every request has in common. */
import { CarrelError } from '#base/errors.ts';
import { failureOf } from './failures.ts';
import type { Channel, Link } from './link.ts';
import { type Ask, ask, tell } from './wire.ts';

export interface Exchange<T> {
  readonly type: Ask;
  readonly payload?: Uint8Array;
  /** For messages: "the file /etc/motd cannot be read". */
  readonly what: string;
  readonly limitMs: number;
  /** Called once, with the open channel, before any answer. */
  readonly begin?: (channel: Channel) => void;
  /** A frame other than `failed`; a value ends the exchange. Throws `machine_lost` for what does not belong. */
  readonly answer: (type: number, payload: Buffer) => { readonly value: T } | undefined;
}

const nothing = new Uint8Array(0);

/** How long an agent that was late may take to show that it lives. */
const proofMs = 2000;

/** An agent that leaves a question unanswered and answers no ping either is as good as gone. */
function suspect(link: Link): void {
  const timer = setTimeout(
    () => link.destroy(new CarrelError('machine_lost', "the machine's agent does not answer any more")),
    proofMs,
  );
  void exchange(link, { type: ask.ping, what: 'a ping', limitMs: 2 * proofMs, answer: doneOnly }).then(
    () => clearTimeout(timer),
    () => clearTimeout(timer),
  );
}

/** For requests that are answered by `done` alone. */
export function doneOnly(type: number): { readonly value: undefined } {
  if (type === tell.done) return { value: undefined };
  throw unexpected(type);
}

export function unexpected(type: number): CarrelError {
  return new CarrelError(
    'machine_lost',
    `the machine's agent gave an answer that does not belong here (${type})`,
  );
}

/** Asks, and gives the answer. The channel is closed in every case. */
export async function exchange<T>(
  link: Link,
  { type, payload = nothing, what, limitMs, begin, answer }: Exchange<T>,
): Promise<T> {
  return await new Promise<T>((resolve, reject) => {
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      channel.close();
      act();
    };
    const channel = link.request(type, payload, {
      frame(kind, bytes) {
        if (kind === tell.failed) {
          const failure = failureOf(bytes, what);
          settle(() => reject(failure));
          return;
        }
        const answered = answer(kind, bytes);
        if (answered) settle(() => resolve(answered.value));
      },
      lost(error) {
        clearTimeout(timer);
        reject(error);
      },
    });
    const timer = setTimeout(() => {
      settle(() => reject(new CarrelError('deadline_exceeded', `${what}: no answer in ${limitMs} ms`)));
      suspect(link);
    }, limitMs);
    begin?.(channel);
  });
}
