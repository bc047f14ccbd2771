/** `carrel vmm walk ADDRESS`. */
import { CarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import { AddressSpace } from '#vmm/addresses.ts';
import { parsePlace } from '#vmm/debug/parse.ts';
import type { Action } from '../../spec.ts';
import { drawWalk } from './draw-walk.ts';
import { countOf, interruptible, limitOf, machineOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

export const vmmWalk: Action = async ({ args, out }) => {
  using machine = await machineOf(args);
  const address = parsePlace(args.word('address'), machine.image.symbols);
  const index = countOf(args, 'vcpu', { usual: 0, most: machine.vcpus.length - 1 });
  if (args.wordIf('guest') !== undefined) {
    using interrupt = interruptible();
    await machine.run({ limitMs: limitOf(args), signal: interrupt.signal });
  }
  const chosen = machine.vcpus[index];
  if (!chosen) throw new CarrelError('not_found', `there is no vCPU ${index}`);
  const space = new AddressSpace(chosen.layout, chosen.vcpu.special());
  const walk = space.walk(address);
  const { result } = walk;
  const hostVirtual =
    result.mapped && machine.memory.slice(result.physical, 1)
      ? machine.memory.hostAddress + result.physical
      : undefined;
  out.result(
    plain({ vcpu: index, cr3: space.paging.cr3, ...walk, ...(hostVirtual && { hostVirtual }) }),
    () =>
      [
        drawWalk(walk, space.paging.cr3),
        ...(hostVirtual === undefined ? [] : [`  host-virtual ${hex(hostVirtual)}`]),
      ].join('\n'),
  );
  return undefined;
};
