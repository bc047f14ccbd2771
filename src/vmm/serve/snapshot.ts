/** The whole inspection of a session as JSON: what a page shows before the first event. */
import { describeEnd } from '../end.ts';
import { mappingAt } from '../inspect/mapping.ts';
import { plain } from '../inspect/plain.ts';
import { viewOf } from '../inspect/vcpu.ts';
import type { Session } from '../session/session.ts';

/** Of a vCPU that runs only its counters as of its last stop are known. */
export function snapshot(session: Session): unknown {
  const { machine } = session;
  const { memory, mode, image } = machine;
  return plain({
    mode: { name: mode.name, title: mode.title, bits: mode.bits },
    memory: {
      bytes: memory.length,
      hostVirtual: memory.hostAddress,
      mapping: mappingAt(memory.hostAddress),
    },
    symbols: image.symbols,
    breakpoints: session.breakpoints,
    dirty: machine.dirty?.look(),
    vcpus: session.vcpus.map((vcpu) => ({
      vcpu: vcpu.index,
      state: vcpu.state,
      end: vcpu.end && { ...vcpu.end, sentence: describeEnd(vcpu.end) },
      exits: vcpu.exits,
      ...(vcpu.state !== 'running' && viewOf(machine, vcpu.index)),
    })),
  });
}
