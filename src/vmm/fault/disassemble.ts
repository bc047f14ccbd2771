/** Machine code as text, and the memory an instruction touches. The only file that knows iced-x86. */
import {
  Code,
  Decoder,
  DecoderOptions,
  Formatter,
  FormatterSyntax,
  InstructionInfoFactory,
  MemorySizeExt,
  Mnemonic,
  OpAccess,
  Register,
  RegisterExt,
  type UsedMemory,
} from 'iced-x86';
import { type RegisterName, registerNames, type Registers, type SegmentName } from '#kvm/registers.ts';

/** The longest instruction has 15 bytes (Intel SDM volume 2A, 2.3.11). */
export const longestInstruction = 15;

export interface MemoryOperand {
  /** Offset in its segment. */
  readonly offset: bigint;
  readonly segment: SegmentName;
  readonly isWrite: boolean;
  /** At least one: of `lea` and the like nothing is known. */
  readonly bytes: number;
}

export interface Disassembled {
  readonly text: string;
  readonly length: number;
  /** Without operands: `div`, `ud2`. */
  readonly mnemonic: string;
  readonly valid: boolean;
}

const registerOf: ReadonlyMap<number, RegisterName> = new Map(
  registerNames.flatMap((name) => {
    const number = { ...Register }[name.toUpperCase()];
    return typeof number === 'number' ? [[number, name] as const] : [];
  }),
);
const segmentOf: ReadonlyMap<number, SegmentName> = new Map([
  [Register.CS, 'cs'],
  [Register.DS, 'ds'],
  [Register.ES, 'es'],
  [Register.FS, 'fs'],
  [Register.GS, 'gs'],
  [Register.SS, 'ss'],
]);

/** The first instruction in `bytes`, as GNU assemblers write it. */
export function disassemble(bytes: Uint8Array, bits: 16 | 32 | 64, rip: bigint): Disassembled {
  const decoder = new Decoder(bits, bytes, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Gas);
  formatter.uppercaseHex = false;
  formatter.branchLeadingZeros = false;
  try {
    decoder.ip = rip;
    const instruction = decoder.decode();
    try {
      return {
        text: formatter.format(instruction),
        length: instruction.length,
        mnemonic: Mnemonic[instruction.mnemonic]?.toLowerCase() ?? '',
        valid: instruction.code !== Code.INVALID,
      };
    } finally {
      instruction.free();
    }
  } finally {
    formatter.free();
    decoder.free();
  }
}

/** A register's value as part of an address: EAX is the low half of RAX. */
function valueOf(register: Register, registers: Registers): bigint {
  if (register === Register.None) return 0n;
  const name = registerOf.get(RegisterExt.fullRegister(register));
  return name === undefined ? 0n : BigInt.asUintN(RegisterExt.size(register) * 8, registers[name]);
}

const writes: ReadonlySet<OpAccess> = new Set([
  OpAccess.Write,
  OpAccess.CondWrite,
  OpAccess.ReadWrite,
  OpAccess.ReadCondWrite,
]);

/** An address is as wide as the registers in it, or as the mode: 16 bits wrap around at 64 KiB. */
function widthOf({ base, index }: UsedMemory, bits: number): number {
  const register = base === Register.None ? index : base;
  if (register !== Register.None) return RegisterExt.size(register) * 8;
  return bits === 64 ? 64 : 32;
}

function operandOf(memory: UsedMemory, bits: number, registers: Registers): MemoryOperand {
  const offset =
    valueOf(memory.base, registers) +
    valueOf(memory.index, registers) * BigInt(memory.scale) +
    memory.displacement;
  return {
    offset: BigInt.asUintN(widthOf(memory, bits), offset),
    segment: segmentOf.get(memory.segment) ?? 'ds',
    isWrite: writes.has(memory.access),
    bytes: Math.max(1, MemorySizeExt.size(memory.memorySize)),
  };
}

/** What the first instruction reads and writes in memory, the stack of push and call included. */
export function memoryOperands(bytes: Uint8Array, bits: 16 | 32 | 64, registers: Registers): MemoryOperand[] {
  const decoder = new Decoder(bits, bytes, DecoderOptions.None);
  const factory = new InstructionInfoFactory();
  try {
    decoder.ip = registers.rip;
    const instruction = decoder.decode();
    try {
      const used: readonly UsedMemory[] = factory.info(instruction).usedMemory();
      return used
        .filter(({ access }) => access !== OpAccess.NoMemAccess)
        .map((memory) => operandOf(memory, bits, registers));
    } finally {
      instruction.free();
    }
  } finally {
    factory.free();
    decoder.free();
  }
}
