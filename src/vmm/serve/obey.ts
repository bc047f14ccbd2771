/** A command from outside, carried out on a session. What runs the guest answers when it runs; events tell the rest. */
import { setImmediate } from 'node:timers/promises';
import { messageOf } from '#base/errors.ts';
import { parseBreakpoint, parsePlace } from '../debug/parse.ts';
import { plain } from '../inspect/plain.ts';
import type { Session } from '../session/session.ts';
import type { Ended } from '../vcpu-worker.ts';
import type { Command } from './messages.ts';
import { snapshot } from './snapshot.ts';

/** What is refused at once is the answer; what breaks later is ours, and ends the server. */
async function begun(stretch: Promise<Ended>, broke: (error: unknown) => void): Promise<void> {
  let isLate = false;
  const watched = stretch.catch((error: unknown) => {
    if (!isLate) throw error;
    broke(error);
  });
  await Promise.race([watched, setImmediate()]);
  isLate = true;
}

/** The answer as JSON takes it; undefined for commands that have none. */
export async function obey(
  session: Session,
  wanted: Exclude<Command, { readonly do: 'end' }>,
  broke: (error: unknown) => void,
): Promise<unknown> {
  const { symbols } = session.machine.image;
  switch (wanted.do) {
    case 'step':
      return await begun(session.step(wanted.vcpu, wanted.count), broke);
    case 'continue':
      return await begun(session.resume(wanted.vcpu), broke);
    case 'pause':
      return await session.pause(wanted.vcpu);
    case 'reset':
      return await session.reset();
    case 'break':
      return plain(session.addBreakpoint(parseBreakpoint(wanted.place, wanted.on, symbols)));
    case 'unbreak':
      return session.removeBreakpoint(wanted.number);
    case 'set':
      return session.vcpu(wanted.vcpu).setRegister(wanted.register, BigInt(wanted.value));
    case 'read': {
      const { vcpu, bytes, physical } = wanted;
      const address = parsePlace(wanted.place, symbols);
      const read = session.vcpu(vcpu).read(address, bytes, { physical });
      return plain({ address, bytes: Buffer.from(read).toString('hex') });
    }
    case 'write':
      return session
        .vcpu(wanted.vcpu)
        .write(parsePlace(wanted.place, symbols), Buffer.from(wanted.bytes, 'hex'));
    case 'walk':
      return plain(session.vcpu(wanted.vcpu).walk(parsePlace(wanted.place, symbols)));
    case 'code': {
      const from = wanted.place === undefined ? undefined : parsePlace(wanted.place, symbols);
      return plain(session.vcpu(wanted.vcpu).code(wanted.count, from));
    }
    case 'snapshot':
      return snapshot(session);
    default:
      wanted satisfies never;
      throw new Error(messageOf(wanted));
  }
}
