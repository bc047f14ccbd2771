/** `carrel events`: what happens, as it happens. */
import { sleep } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Event } from '#contract/schemas/jobs.ts';
import type { Action } from '../spec.ts';
import { printable } from '../ui/style.ts';

const everyMs = 1000;

function lineOf({ seq, at, kind, subject, actor, payload }: Event): string {
  const more = Object.keys(payload).length > 0 ? `  ${JSON.stringify(payload)}` : '';
  return printable(`${String(seq).padStart(6)}  ${at}  ${kind}  ${subject}  ${actor ?? '-'}${more}`);
}

/** Polls by sequence number: the table is the truth, and a lost connection costs nothing but a second. */
export const events: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const kind = args.option('kind');
  const follow = args.unless('follow');
  let after = args.number('after');
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal);
  try {
    for (;;) {
      const { items } = await client
        .pollEvents({
          params: {},
          query: { ...(after !== undefined && { after }), ...(kind !== undefined && { kind }) },
        })
        .catch((error: unknown) => {
          if (follow && isCarrelError(error, 'unavailable')) return { items: [] };
          throw error;
        });
      for (const event of items)
        process.stdout.write(`${out.json ? JSON.stringify(event) : lineOf(event)}\n`);
      after = items.at(-1)?.seq ?? after;
      if (items.length > 0) continue;
      if (!follow) return undefined;
      await sleep(everyMs, stop.signal);
    }
  } catch (error) {
    if (stop.signal.aborted) return undefined;
    throw error;
  } finally {
    process.off('SIGINT', onSignal);
  }
};
