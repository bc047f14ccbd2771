/** A program that is waited for. */
import { CarrelError } from '#base/errors.ts';
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import { createCollector } from './collector.ts';
import { exchange, unexpected } from './exchange.ts';
import { type InputStream, sendInput } from './input.ts';
import type { Channel, Link } from './link.ts';
import { payload } from './payload.ts';
import { encodeRun, endedOf } from './program.ts';
import { ask, tell } from './wire.ts';

/** Output on its way that has not been read here yet. */
const windowBytes = 256 << 10;
/** The agent keeps the limit; this is how much later it is noticed that it does not. */
const graceMs = 10_000;

/** Runs it to its end; `signal` kills it, and then the reply says so. */
export async function runProgram(link: Link, request: RunRequest, signal?: AbortSignal): Promise<RunReply> {
  signal?.throwIfAborted();
  const { argv, limitMs, outputBytes } = request;
  const most = Math.max(outputBytes, 1);
  const streams = { [tell.stdout]: createCollector(most), [tell.stderr]: createCollector(most) };
  let input: InputStream | undefined;
  let open: Channel | undefined;
  let credit = windowBytes;
  let total = 0;

  const output = (stream: (typeof streams)[keyof typeof streams], bytes: Buffer): void => {
    credit -= bytes.length;
    total += bytes.length;
    if (credit < 0 || total > most)
      throw new CarrelError('machine_lost', "the machine's agent sent more output than it was asked for");
    stream.add(bytes);
    if (credit > windowBytes / 2) return;
    open?.send(
      ask.credit,
      payload()
        .u32(windowBytes - credit)
        .done(),
    );
    credit = windowBytes;
  };
  const cancel = (): void => open?.send(ask.kill);
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    return await exchange<RunReply>(link, {
      type: ask.run,
      payload: encodeRun(request, { credit }),
      what: `${argv[0]} cannot be run in the machine`,
      limitMs: limitMs + graceMs,
      begin(channel) {
        open = channel;
        if (request.stdin === '') return;
        input = sendInput(channel, Buffer.from(request.stdin, 'base64'));
        input.go();
      },
      answer(type, bytes) {
        switch (type) {
          case tell.started:
            return undefined;
          case tell.taken:
            input?.taken(bytes);
            return undefined;
          case tell.stdout:
          case tell.stderr:
            output(streams[type], bytes);
            return undefined;
          case tell.ended: {
            const { end, wallMs } = endedOf(bytes);
            const [stdout, stderr] = [streams[tell.stdout].take(), streams[tell.stderr].take()];
            return {
              value: { end, stdout: stdout.toString('base64'), stderr: stderr.toString('base64'), wallMs },
            };
          }
          default:
            throw unexpected(type);
        }
      },
    });
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}
