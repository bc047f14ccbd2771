/** struct kvm_regs and struct kvm_sregs as objects. What the bits mean: Intel SDM volume 3A, chapter 2. */
import { kvmRegs, kvmSegment, kvmSregs } from './abi/structs.ts';

/** In the order of struct kvm_regs, eight bytes each. */
export const registerNames = [
  'rax',
  'rbx',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'rsp',
  'rbp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'rip',
  'rflags',
] as const;
export type RegisterName = (typeof registerNames)[number];
export type Registers = Record<RegisterName, bigint>;

/** All registers from a structure at `at`. */
export function readRegisters(view: DataView, at = 0): Registers {
  const word = (index: number): bigint => view.getBigUint64(at + index * 8, true);
  return {
    rax: word(0),
    rbx: word(1),
    rcx: word(2),
    rdx: word(3),
    rsi: word(4),
    rdi: word(5),
    rsp: word(6),
    rbp: word(7),
    r8: word(8),
    r9: word(9),
    r10: word(10),
    r11: word(11),
    r12: word(12),
    r13: word(13),
    r14: word(14),
    r15: word(15),
    rip: word(16),
    rflags: word(17),
  };
}

/** All of them 0. */
export const zeroRegisters: Readonly<Registers> = readRegisters(new DataView(new ArrayBuffer(kvmRegs.bytes)));

export function writeRegisters(view: DataView, registers: Registers): void {
  for (const [index, name] of registerNames.entries()) view.setBigUint64(index * 8, registers[name], true);
}

/** A segment register with the hidden part that the processor keeps of its descriptor. */
export interface Segment {
  readonly selector: number;
  readonly base: bigint;
  readonly limit: number;
  /** 11: code, execute and read, accessed. 3: data, read and write, accessed. */
  readonly type: number;
  /** Privilege: 0 is the kernel's. */
  readonly dpl: number;
  /** 32-bit code, or a stack of 32 bits. */
  readonly db: boolean;
  /** 64-bit code. */
  readonly l: boolean;
  /** The limit counted in pages. */
  readonly g: boolean;
}

export const segmentNames = ['cs', 'ds', 'es', 'fs', 'gs', 'ss'] as const;
export type SegmentName = (typeof segmentNames)[number];
export const controlNames = ['cr0', 'cr2', 'cr3', 'cr4', 'efer'] as const;
export type ControlName = (typeof controlNames)[number];

/** A processor's special registers, over the bytes of one struct kvm_sregs: what is not set stays as KVM had it. */
export class SpecialRegisters {
  readonly view = new DataView(new ArrayBuffer(kvmSregs.bytes));

  segment(name: SegmentName): Segment {
    const at = kvmSregs.fields[name];
    const { fields } = kvmSegment;
    return {
      selector: this.view.getUint16(at + fields.selector, true),
      base: this.view.getBigUint64(at + fields.base, true),
      limit: this.view.getUint32(at + fields.limit, true),
      type: this.view.getUint8(at + fields.type),
      dpl: this.view.getUint8(at + fields.dpl),
      db: this.view.getUint8(at + fields.db) !== 0,
      l: this.view.getUint8(at + fields.l) !== 0,
      g: this.view.getUint8(at + fields.g) !== 0,
    };
  }

  setSegment(name: SegmentName, segment: Segment): void {
    const at = kvmSregs.fields[name];
    const { fields } = kvmSegment;
    this.view.setBigUint64(at + fields.base, segment.base, true);
    this.view.setUint32(at + fields.limit, segment.limit, true);
    this.view.setUint16(at + fields.selector, segment.selector, true);
    this.view.setUint8(at + fields.type, segment.type);
    this.view.setUint8(at + fields.present, 1);
    this.view.setUint8(at + fields.dpl, segment.dpl);
    this.view.setUint8(at + fields.db, Number(segment.db));
    this.view.setUint8(at + fields.s, 1); // a code or data segment, not a system one
    this.view.setUint8(at + fields.l, Number(segment.l));
    this.view.setUint8(at + fields.g, Number(segment.g));
    this.view.setUint8(at + fields.unusable, 0);
  }

  get(name: ControlName): bigint {
    return this.view.getBigUint64(kvmSregs.fields[name], true);
  }

  set(name: ControlName, value: bigint): void {
    this.view.setBigUint64(kvmSregs.fields[name], value, true);
  }

  /** The descriptor table's place and last byte. */
  setGdt(base: bigint, limit: number): void {
    this.view.setBigUint64(kvmSregs.fields['gdt.base'], base, true);
    this.view.setUint16(kvmSregs.fields['gdt.limit'], limit, true);
  }

  setIdt(base: bigint, limit: number): void {
    this.view.setBigUint64(kvmSregs.fields['idt.base'], base, true);
    this.view.setUint16(kvmSregs.fields['idt.limit'], limit, true);
  }

  /** The interrupt table's place and last byte. */
  get idt(): { readonly base: bigint; readonly limit: number } {
    return {
      base: this.view.getBigUint64(kvmSregs.fields['idt.base'], true),
      limit: this.view.getUint16(kvmSregs.fields['idt.limit'], true),
    };
  }
}
