/**
 * Runs a few instructions in a virtual machine and says as JSON how that went. A process of its own (probe.ts
 * starts it, with a limit): whatever KVM does here, it is gone with this process.
 *
 * Two guests, both `mov al, 'k'; out 0xe9, al; hlt`: one in real mode, one with 32-bit paging. Hardware runs
 * both. A KVM that emulates the supervisor (kvm-pvm) shuts the second one down at its first instruction.
 *
 * Numbers and structures: Documentation/virt/kvm/api.rst and arch/x86/include/uapi/asm/kvm.h.
 */
import { openSync } from 'node:fs';
import { addressOf, syscall } from '#host/syscalls.ts';

const GET_API_VERSION = 0xae00;
const CREATE_VM = 0xae01;
const GET_VCPU_MMAP_SIZE = 0xae04;
const CREATE_VCPU = 0xae41;
const SET_USER_MEMORY_REGION = 0x4020ae46;
const SET_TSS_ADDR = 0xae47;
const RUN = 0xae80;
const SET_REGS = 0x4090ae82;
const GET_SREGS = 0x8138ae83;
const SET_SREGS = 0x4138ae84;

const EXIT_IO = 2;
const EXIT_HLT = 5;

const page = 4096;
const memoryBytes = 1 << 20;
const entry = 0x1000;
const directory = 0x4000;
const program = [0xb0, 0x6b, 0xe6, 0xe9, 0xf4]; // mov al, 'k'; out 0xe9, al; hlt

/** Offsets in struct kvm_sregs, whose segments have 24 bytes each: cs ds es fs gs ss tr ldt. */
const segment = {
  base: 0,
  limit: 8,
  selector: 12,
  type: 14,
  present: 15,
  dpl: 16,
  db: 17,
  s: 18,
  l: 19,
  g: 20,
} as const;
const sregs = { bytes: 312, cr0: 224, cr3: 240, cr4: 248 } as const;

function fillSegment(view: DataView, index: number, type: number): void {
  const at = index * 24;
  view.setBigUint64(at + segment.base, 0n, true);
  view.setUint32(at + segment.limit, 0xffff_ffff, true);
  view.setUint16(at + segment.selector, index === 0 ? 8 : 16, true);
  view.setUint8(at + segment.type, type);
  for (const field of [segment.present, segment.db, segment.s, segment.g]) view.setUint8(at + field, 1);
  for (const field of [segment.dpl, segment.l]) view.setUint8(at + field, 0);
}

/** Protected mode with one 4 MiB page that maps itself. */
function enterPaging(view: DataView, memory: DataView): void {
  fillSegment(view, 0, 11);
  for (const index of [1, 2, 3, 4, 5]) fillSegment(view, index, 3);
  memory.setUint32(directory, 0x83, true); // present, writable, 4 MiB
  view.setBigUint64(sregs.cr3, BigInt(directory), true);
  view.setBigUint64(sregs.cr4, 0x10n, true); // PSE
  view.setBigUint64(sregs.cr0, 0x8000_0011n, true); // PG, ET, PE
}

/** Real mode: what a new vCPU is in; only the code segment must begin at 0. */
function enterReal(view: DataView): void {
  view.setBigUint64(segment.base, 0n, true);
  view.setUint16(segment.selector, 0, true);
}

/** Runs the guest to its end; the exit reasons in order. */
function runGuest(kvm: number, paging: boolean): number[] {
  const vm = syscall('ioctl', kvm, CREATE_VM, 0);
  syscall('ioctl', vm, SET_TSS_ADDR, 0xfffbd000);
  // the store of a shared buffer does not begin at a page
  const buffer = new SharedArrayBuffer(memoryBytes + page);
  const at = Number(addressOf(new Uint8Array(buffer)));
  const memory = new DataView(buffer, (page - (at % page)) % page, memoryBytes);
  for (const [index, byte] of program.entries()) memory.setUint8(entry + index, byte);
  // struct kvm_userspace_memory_region: slot, flags, guest address, size, our address
  const region = new DataView(new ArrayBuffer(32));
  region.setBigUint64(16, BigInt(memoryBytes), true);
  region.setBigUint64(24, addressOf(memory), true);
  syscall('ioctl', vm, SET_USER_MEMORY_REGION, region);

  const vcpu = syscall('ioctl', vm, CREATE_VCPU, 0);
  const size = syscall('ioctl', kvm, GET_VCPU_MMAP_SIZE, 0);
  // a growable buffer is a mapping of its own, so kvm_run may be mapped over it
  const shared = new SharedArrayBuffer(size, { maxByteLength: size });
  const run = new Uint32Array(shared, 0, 4);
  syscall('mmap', addressOf(run), size, 3, 0x11, vcpu, 0); // MAP_SHARED | MAP_FIXED

  const special = new DataView(new ArrayBuffer(sregs.bytes));
  syscall('ioctl', vcpu, GET_SREGS, special);
  if (paging) enterPaging(special, memory);
  else enterReal(special);
  syscall('ioctl', vcpu, SET_SREGS, special);
  const registers = new BigUint64Array(18); // rip is the 17th, rflags the 18th
  registers[16] = BigInt(entry);
  registers[17] = 2n;
  syscall('ioctl', vcpu, SET_REGS, registers);

  const exits: number[] = [];
  while (exits.length < 4 && exits.at(-1) !== EXIT_HLT) {
    syscall('ioctl', vcpu, RUN, 0);
    const reason = run[2] ?? -1;
    exits.push(reason);
    if (reason !== EXIT_IO) break;
  }
  return exits;
}

const kvm = openSync('/dev/kvm', 'r+');
const version = syscall('ioctl', kvm, GET_API_VERSION, 0);
const ran = (exits: readonly number[]): boolean => exits.join() === `${EXIT_IO},${EXIT_HLT}`;
const real = runGuest(kvm, false);
const paged = runGuest(kvm, true);
process.stdout.write(
  JSON.stringify({ version, real: ran(real), paged: ran(paged), exits: [...real, ...paged] }),
);
