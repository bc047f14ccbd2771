/** `carrel up`. */
import { sleep } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import { formatEndpoint, parseListen } from '#fabric/listeners.ts';
import { formatDuration } from '#base/units.ts';
import { refuseOpenTo } from '#fabric/local-only.ts';
import { connect, readAddress } from '../connection.ts';
import { askDoorman, dataDirectory } from '../local/directory.ts';
import { detachedWords, runCloud, startDetached, type CloudOptions } from '../local/cloud.ts';
import { untilReady } from '../local/ready.ts';
import type { Action, Context } from '../spec.ts';

function optionsOf({ args }: Context): CloudOptions {
  const osCloud = args.option('oscloud');
  const open = args.flag('oscloudOpen');
  if (open && osCloud === undefined)
    throw new CarrelError('invalid_request', '--oscloud-open is said of --oscloud ADDRESS', {
      hint: 'carrel up --oscloud 127.0.0.1:5000 --oscloud-open',
    });
  const endpoint = osCloud === undefined ? undefined : parseListen(osCloud);
  if (open && endpoint) refuseOpenTo(endpoint);
  return {
    data: dataDirectory(args),
    listen: parseListen(args.option('listen') ?? '127.0.0.1:7070'),
    uplink: args.unless('uplink'),
    osCloud: endpoint && { endpoint, open },
  };
}

/** What to say, and do, once the cloud at `url` answers. */
async function welcome(
  context: Context,
  { data, osCloud }: CloudOptions,
  url: string,
  began?: number,
): Promise<void> {
  const { args, out } = context;
  const time = began === undefined ? '' : `${formatDuration(performance.now() - began)}, `;
  if (!args.flag('demo')) {
    out.result({ url, data }, () =>
      [
        `Carrel is up: ${out.paint('bold', url)}  (${time}data in ${data})`,
        ...(osCloud ? [`  OS-Cloud at http://${formatEndpoint(osCloud.endpoint)}`] : []),
        `  carrel status                what is running`,
        `  carrel course new NAME       make a course; then: carrel lab import NAME DIR`,
        `  carrel machine new NAME      a machine with root`,
        `  carrel down                  stop everything`,
      ].join('\n'),
    );
    return;
  }
  out.note(`Carrel is up: ${url}  (${time}data in ${data})`);
  const { runDemo } = await import('../demo/run.ts');
  await runDemo(await connect({ data }), data, out);
}

async function running(context: Context, options: CloudOptions): Promise<boolean> {
  const status = await askDoorman(options.data);
  if (!status) return false;
  const address = await readAddress(options.data);
  if (!address) return false;
  await untilReady(address.url, options.data);
  context.out.note(`Carrel is running already in ${options.data} (process ${status.pid}).`);
  await welcome(context, options, address.url);
  return true;
}

async function detached(context: Context, options: CloudOptions, began: number): Promise<void> {
  using progress = context.out.progress();
  progress.update('starting');
  const child = startDetached(options);
  let url: string | undefined;
  while ((url = (await readAddress(options.data))?.url) === undefined) {
    const over = child.over();
    if (over !== undefined)
      throw new CarrelError('unavailable', `the cloud did not start: ${over}`, {
        hint: await detachedWords(options.data),
      });
    if (performance.now() - began > 60_000)
      throw new CarrelError('deadline_exceeded', 'the cloud has not started in 60 s');
    await sleep(10);
  }
  progress.update('waiting for the first answer');
  try {
    await untilReady(url, options.data, { over: child.over });
  } catch (error) {
    child.end();
    throw error;
  }
  child.release();
  progress.clear();
  await welcome(context, options, url, began);
}

async function foreground(context: Context, options: CloudOptions, began: number): Promise<void> {
  const { out } = context;
  const failed = new AbortController();
  let failure: unknown;
  const end = await runCloud(options, {
    signal: failed.signal,
    started: (url) => {
      void (async () => {
        try {
          await untilReady(url, options.data, {
            over: () => (failed.signal.aborted ? 'it was stopped' : undefined),
          });
          await welcome(context, options, url, began);
          out.note('Ctrl-C stops it.');
        } catch (error) {
          failure = error;
          failed.abort();
        }
      })();
    },
  });
  if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
  out.note(
    end.fabricEnded
      ? 'Stopped.'
      : `Stopped; machines go on (${end.inhabitants.length} processes). carrel up takes them over again, carrel down ends them.`,
  );
}

export const up: Action = async (context) => {
  const began = performance.now();
  const options = optionsOf(context);
  if (process.getuid?.() !== 0)
    throw new CarrelError('host_unsupported', 'a cloud is started by root', {
      hint: 'sudo carrel up; what works without root: carrel doctor',
    });
  if (await running(context, options)) return undefined;
  await (context.args.flag('detach') ? detached : foreground)(context, options, began);
  return undefined;
};
