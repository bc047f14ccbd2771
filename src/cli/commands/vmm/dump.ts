/** `carrel vmm dump GUEST ADDRESS LENGTH`. */
import { writeFile } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import { parseAddress, parsePlace } from '#vmm/debug/parse.ts';
import { describeEnd } from '#vmm/end.ts';
import { openSession } from '#vmm/session/session.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { hexDump } from './hexdump.ts';
import { breakpointsOf, countOf, interruptible, limitOf, machineOptionsOf, shareOf } from './options.ts';

const usualLength = '256';

export const vmmDump: Action = async ({ args, out }) => {
  const what = await machineOptionsOf(args);
  const { symbols } = what.image;
  const address = parsePlace(args.word('address'), symbols);
  const length = Number(parseAddress(args.wordIf('length') ?? usualLength));
  const physical = args.flag('physical');
  const index = countOf(args, 'vcpu', { usual: 0, most: (what.vcpus ?? 1) - 1 });
  await using session = openSession(what, {
    limitMs: limitOf(args),
    ports: args.option('ports') ?? 'carrel',
    trace: false,
    ...(await shareOf(args)),
  });
  const vcpu = session.vcpu(index);
  if (physical) vcpu.read(address, length, { physical }); // refuse before the run
  for (const breakpoint of breakpointsOf(args, symbols)) session.addBreakpoint(breakpoint);
  if (!args.flag('before')) {
    using interrupt = interruptible();
    interrupt.signal.addEventListener('abort', () => void session.pause(index));
    const { end } = await session.resume(index);
    out.note(describeEnd(end));
    if (end.kind === 'stopped') return exitCodes.interrupted;
  }
  const bytes = vcpu.read(address, length, { physical });
  const file = args.option('out');
  if (file !== undefined) await writeNew(file, bytes);
  out.result(
    {
      vcpu: index,
      address: hex(address),
      by: physical ? 'guest-physical' : 'linear',
      bytes: Buffer.from(bytes).toString('hex'),
      ...(file !== undefined && { file }),
    },
    () => (file === undefined ? hexDump(bytes, Number(address)) : `${bytes.length} bytes written to ${file}`),
  );
  return undefined;
};

async function writeNew(path: string, bytes: Uint8Array): Promise<void> {
  try {
    await writeFile(path, bytes, { flag: 'wx' });
  } catch (cause) {
    throw new CarrelError(
      'invalid_request',
      `${path} cannot be written: it exists, or its directory does not`,
      {
        hint: 'name a new file',
        cause,
      },
    );
  }
}
