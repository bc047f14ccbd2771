/** `carrel vmm map`. */
import { formatSize, hex } from '#base/units.ts';
import { mapOf } from '#vmm/inspect/map.ts';
import { allRegisters } from '#vmm/inspect/registers.ts';
import type { Action } from '../../spec.ts';
import { drawMap, marksOf } from './draw-map.ts';
import { machineOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

const shown = ['rip', 'rsp', 'rflags', 'cr0', 'cr3', 'cr4', 'efer'] as const;

export const vmmMap: Action = async ({ args, out }) => {
  using machine = await machineOf(args);
  const vcpus = machine.vcpus.map((each, index) => ({
    ...mapOf(machine, each, index),
    registers: allRegisters(each.vcpu),
  }));
  const result = {
    mode: machine.mode.name,
    memory: { bytes: machine.memory.length, hostVirtual: machine.memory.hostAddress },
    vcpus,
  };
  out.result(plain(result), () =>
    [
      `${machine.mode.title}: ${formatSize(result.memory.bytes)} of guest memory (${hex(result.memory.bytes)} bytes) at ${hex(result.memory.hostVirtual)} of the host`,
      ...vcpus.map((each) =>
        [
          `vcpu ${each.vcpu}: kvm_run, ${each.run.bytes} bytes at ${hex(each.run.hostVirtual)} of the host, not seen by the guest`,
          `        ${shown.map((name) => `${name.toUpperCase()} ${hex(each.registers[name])}`).join('  ')}`,
          '',
          drawMap(each, marksOf(each.registers, each)),
        ].join('\n'),
      ),
    ].join('\n\n'),
  );
  return undefined;
};
