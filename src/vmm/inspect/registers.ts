/** All registers of a vCPU that is not running. */
import type { ControlName, RegisterName } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';

export function allRegisters(vcpu: Vcpu): Record<RegisterName | ControlName, bigint> {
  const special = vcpu.special();
  return {
    ...vcpu.registers(),
    cr0: special.get('cr0'),
    cr2: special.get('cr2'),
    cr3: special.get('cr3'),
    cr4: special.get('cr4'),
    efer: special.get('efer'),
  };
}
