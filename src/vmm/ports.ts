/** Port exits: from port and direction to a hypercall, and back with its answer. */
import type { RunPage } from '#kvm/runpage.ts';
import type { End } from './end.ts';
import { type Guest, registersOf } from './guest.ts';
import { type PortBinding, portKey } from './hypercalls/maps.ts';

/**
 * Serves one exit of kind IO. Several transfers in one exit (`rep outsb`) are as many calls. Undefined: the guest
 * goes on.
 */
export function servePort(
  guest: Guest,
  calls: ReadonlyMap<number, PortBinding>,
  page: RunPage,
): End | undefined {
  const { port, isOut } = page;
  const binding = calls.get(portKey(port, isOut));
  if (!binding) {
    const astray = registersOf(guest).rip > BigInt(guest.imageEnd);
    return { kind: 'unknown port', port, direction: isOut ? 'out' : 'in', size: page.ioSize, astray };
  }
  for (let index = 0; index < page.ioCount; index += 1) {
    const words = binding.passing(guest, isOut ? page.ioValue(index) : 0);
    const answer = binding.call.run(guest, words);
    if (typeof answer !== 'number') return answer;
    guest.lastResult = answer;
    if (!isOut) page.setIoValue(index, answer);
  }
  return undefined;
}
