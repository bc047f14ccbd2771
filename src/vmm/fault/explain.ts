/**
 * Why a guest faulted. The rules are tried in order; each looks at one kind of evidence and says a sentence, or
 * nothing. A bare guest has no interrupt table, so that every exception ends as a triple fault (SDM 3A, 6.15,
 * interrupt 8): what KVM reports is the same for all, and the instruction at RIP is the witness.
 */
import { INTERNAL_ERROR_EMULATION } from '#kvm/abi/exits.ts';
import { windowBytes } from '../layout.ts';
import type { Fault } from './fault.ts';
import type { Access, Scene } from './scene.ts';
import { exceptionNames } from './vectors.ts';

type Finding = Pick<Fault, 'cause' | 'walk'> & { readonly vector?: number };
type Rule = (scene: Scene) => Finding | undefined;

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

const reach = ({ linear, isWrite, walk }: Access): string | undefined => {
  const { result } = walk;
  if (!result.mapped) return result.why;
  if (isWrite && !result.writable) return `the page is not writable`;
  return linear < 0n ? 'not an address' : undefined;
};

/** SVM resets a vCPU whose guest shut down: its state is undefined by then (arch/x86/kvm/svm/svm.c, shutdown_interception). */
const registersLost: Rule = ({ exit, registers, special }) =>
  exit === 'SHUTDOWN' && registers.rip === 0xfff0n && special.segment('cs').selector === 0xf000
    ? {
        cause:
          'a triple fault, and this processor has reset its registers since: the last step of vmm step is what caused it',
      }
    : undefined;

const ripNotMapped: Rule = ({ fetch, registers }) => {
  if (fetch.result.mapped) return undefined;
  return {
    cause: `RIP is ${hex(registers.rip)}, and there is no code: ${fetch.result.why}. A return or jump went astray`,
    walk: fetch,
    vector: 14,
  };
};

const outsideOfMemory: Rule = ({ mmio }) => {
  if (!mmio) return undefined;
  const did = mmio.isWrite ? 'wrote to' : 'read from';
  return {
    cause: `the guest ${did} guest-physical ${hex(mmio.address)}, where it has neither memory nor a device; its memory ends at ${hex(windowBytes)}`,
  };
};

/** Zeros are `add %al,(%rax)`: what a guest executes behind its last instruction. */
const ranPastTheEnd: Rule = ({ registers, imageEnd, bytes }) => {
  const isZeros = bytes.length > 1 && bytes[0] === 0 && bytes[1] === 0;
  if (registers.rip < BigInt(imageEnd) || !isZeros) return undefined;
  return {
    cause: `the guest ran past the end of its code (${hex(imageEnd)}) into empty memory: a hlt or a return is missing`,
  };
};

const invalidOpcode: Rule = ({ instruction }) => {
  if (instruction?.mnemonic === 'ud2')
    return {
      cause: 'ud2 is the instruction that is never valid: compilers put it where code must not come',
      vector: 6,
    };
  if (instruction && !instruction.valid) return { cause: 'the bytes at RIP are no instruction', vector: 6 };
  return undefined;
};

const operandNotReached: Rule = ({ accesses, instruction }) => {
  for (const access of accesses) {
    const why = reach(access);
    if (why === undefined) continue;
    const does = access.isWrite ? 'writes to' : 'reads from';
    const isStack = /^(?:push|call|pop|ret|enter|leave)/.test(instruction?.mnemonic ?? '');
    return {
      cause: `the instruction ${does} ${hex(access.linear)}: ${why}${isStack ? '; RSP points nowhere' : ''}`,
      walk: access.walk,
      // an address that is none does not even reach the page tables
      vector: !access.walk.result.mapped && access.walk.steps.length === 0 ? 13 : 14,
    };
  }
  return undefined;
};

const division: Rule = ({ instruction }) =>
  /^i?div$/.test(instruction?.mnemonic ?? '')
    ? { cause: 'a division by zero, or a quotient that does not fit', vector: 0 }
    : undefined;

const softwareInterrupt: Rule = ({ instruction, special }) => {
  const isInterrupt = /^int[13o]?$/.test(instruction?.mnemonic ?? '');
  if (!isInterrupt) return undefined;
  const { base, limit } = special.idt;
  return {
    cause: `${instruction?.text ?? 'int'} wants a handler, and the guest has no interrupt table of its own (IDT at ${hex(base)}, limit ${hex(limit)})`,
  };
};

const notEmulated: Rule = ({ exit, suberror, instruction }) =>
  exit === 'INTERNAL_ERROR' && suberror === INTERNAL_ERROR_EMULATION
    ? {
        cause: `this host's KVM emulates the instruction ${instruction ? `"${instruction.text}" ` : ''}and does not know how; hardware KVM would run it`,
      }
    : undefined;

const refusedEntry: Rule = ({ exit, entryFailure }) =>
  exit === 'FAIL_ENTRY'
    ? { cause: `the processor does not enter the guest with these registers (reason ${hex(entryFailure)})` }
    : undefined;

const noHandler: Rule = ({ exit, instruction }) =>
  exit === 'SHUTDOWN'
    ? {
        cause: `${instruction ? `"${instruction.text}"` : 'an instruction'} raised an exception, and the guest has no handler for it`,
      }
    : undefined;

/** From the strongest evidence to the weakest. */
const rules: readonly Rule[] = [
  registersLost,
  refusedEntry,
  outsideOfMemory,
  ripNotMapped,
  ranPastTheEnd,
  invalidOpcode,
  operandNotReached,
  division,
  softwareInterrupt,
  notEmulated,
  noHandler,
];

const bytesText = (bytes: Uint8Array): string =>
  Buffer.from(bytes)
    .toString('hex')
    .replace(/..(?=.)/g, '$& ');

/** Always finds a cause, if only the meaning of the exit. */
export function explain(scene: Scene): Fault {
  let finding: Finding = { cause: scene.exitDoc };
  for (const rule of rules) {
    const found = rule(scene);
    if (!found) continue;
    finding = found;
    break;
  }
  const vector = scene.exception?.vector ?? finding.vector;
  const { instruction, bytes } = scene;
  return {
    exit: scene.exit,
    cause: finding.cause,
    rip: scene.registers.rip,
    ...(instruction && {
      instruction: { bytes: bytesText(bytes.subarray(0, instruction.length)), text: instruction.text },
    }),
    ...(vector !== undefined && {
      exception: { vector, name: exceptionNames[vector] ?? `vector ${vector}` },
    }),
    ...(finding.walk && { walk: finding.walk }),
  };
}
