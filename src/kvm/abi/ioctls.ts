/**
 * The ioctls of KVM. Numbers: include/uapi/linux/kvm.h; how a number is made of direction, size and number:
 * include/uapi/asm-generic/ioctl.h; what each does: Documentation/virt/kvm/api.rst, under the same name.
 */
import {
  kvmCpuid2,
  kvmEnableCap,
  kvmDirtyLog,
  kvmGuestDebug,
  kvmIoeventfd,
  kvmIrqfd,
  kvmIrqLevel,
  kvmMemoryRegion,
  kvmMsrs,
  kvmPitConfig,
  kvmRegs,
  kvmSregs,
  kvmVcpuEvents,
} from './structs.ts';

const KVMIO = 0xae;

/** _IOW: user space writes the structure. _IOR: the kernel does. */
const direction = { none: 0, write: 1, read: 2, both: 3 } as const;

function ioctl(number: number, way: keyof typeof direction = 'none', bytes = 0): number {
  return ((direction[way] << 30) | (bytes << 16) | (KVMIO << 8) | number) >>> 0;
}

export const ioctls = {
  // on /dev/kvm
  GET_API_VERSION: ioctl(0x00),
  CREATE_VM: ioctl(0x01),
  CHECK_EXTENSION: ioctl(0x03),
  GET_VCPU_MMAP_SIZE: ioctl(0x04),
  GET_SUPPORTED_CPUID: ioctl(0x05, 'both', kvmCpuid2.bytes),
  // on a VM
  CREATE_VCPU: ioctl(0x41),
  GET_DIRTY_LOG: ioctl(0x42, 'write', kvmDirtyLog.bytes),
  SET_USER_MEMORY_REGION: ioctl(0x46, 'write', kvmMemoryRegion.bytes),
  SET_TSS_ADDR: ioctl(0x47),
  ENABLE_CAP: ioctl(0xa3, 'write', kvmEnableCap.bytes),
  CREATE_IRQCHIP: ioctl(0x60),
  IRQ_LINE: ioctl(0x61, 'write', kvmIrqLevel.bytes),
  IRQFD: ioctl(0x76, 'write', kvmIrqfd.bytes),
  CREATE_PIT2: ioctl(0x77, 'write', kvmPitConfig.bytes),
  IOEVENTFD: ioctl(0x79, 'write', kvmIoeventfd.bytes),
  // on a vCPU
  RUN: ioctl(0x80),
  GET_REGS: ioctl(0x81, 'read', kvmRegs.bytes),
  SET_REGS: ioctl(0x82, 'write', kvmRegs.bytes),
  GET_SREGS: ioctl(0x83, 'read', kvmSregs.bytes),
  SET_SREGS: ioctl(0x84, 'write', kvmSregs.bytes),
  SET_MSRS: ioctl(0x89, 'write', kvmMsrs.bytes),
  SET_CPUID2: ioctl(0x90, 'write', kvmCpuid2.bytes),
  SET_GUEST_DEBUG: ioctl(0x9b, 'write', kvmGuestDebug.bytes),
  GET_VCPU_EVENTS: ioctl(0x9f, 'read', kvmVcpuEvents.bytes),
  SET_VCPU_EVENTS: ioctl(0xa0, 'write', kvmVcpuEvents.bytes),
} as const;

export type IoctlName = keyof typeof ioctls;
