/** Numbers of 64 bits in JSON. */
import { hex } from '#base/units.ts';

import { internalError, internalErrors } from '#kvm/abi/exits.ts';
import { windowBytes } from '../layout.ts';
import { CR0 } from '../modes/bits.ts';
import type { Fault } from './fault.ts';
import type { Access, Scene } from './scene.ts';
import { exceptionName } from './vectors.ts';

type Finding = Pick<Fault, 'cause' | 'walk'> & { readonly vector?: number };
type Rule = (scene: Scene) => Finding | undefined;

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

const ripNotMapped: Rule = ({ fetch, registers, bytes, damage }) => {
  // whoever overwrites the tables takes away the ground that RIP rightly stood on
  const astray = damage ? '' : '. A return or jump went astray';
  if (fetch.result.mapped)
    return bytes.length > 0
      ? undefined
      : {
          cause: `RIP is ${hex(registers.rip)}, and there is no memory: it ends at ${hex(windowBytes)}${astray}`,
        };
  return {
    cause: `RIP is ${hex(registers.rip)}, and there is no code: ${fetch.result.why}${astray}`,
    walk: fetch,
    vector: 14,
  };
};

const outsideOfMemory: Rule = ({ mmio, accesses }) => {
  if (!mmio) return undefined;
  const touching = accesses.find(({ walk: { result } }) => result.mapped && result.physical === mmio.address);
  const did = mmio.isWrite ? 'wrote to' : 'read from';
  return {
    cause: `the guest ${did} guest-physical ${hex(mmio.address)}, where it has neither memory nor a device; its memory ends at ${hex(windowBytes)}`,
    // without paging there is nothing to walk
    ...(touching && touching.walk.steps.length > 0 && { walk: touching.walk }),
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

const isInterrupt = ({ instruction }: Scene): boolean => /^int[13o]?$/.test(instruction?.mnemonic ?? '');

const softwareInterrupt: Rule = (scene) => {
  if (!isInterrupt(scene)) return undefined;
  const { base, limit } = scene.special.idt;
  const table = `IDT at ${hex(base)}, limit ${hex(limit)}`;
  const text = scene.instruction?.text ?? 'int';
  return {
    cause:
      base === 0n
        ? `${text} wants a handler, and the guest has no interrupt table of its own (${table})`
        : `${text} wants a handler, and gets none by the interrupt table of the guest (${table})`,
  };
};

const notEmulated: Rule = (scene) => {
  const { exit, suberror, instruction, special } = scene;
  if (exit !== 'INTERNAL_ERROR') return undefined;
  if (suberror !== internalErrors.EMULATION.number)
    return { cause: `KVM cannot go on: ${internalError(suberror)}` };
  // without a table the interrupt would fail on hardware too, and that is what to learn
  if (isInterrupt(scene) && special.idt.base === 0n) return undefined;
  return {
    cause: `this host's KVM emulates the instruction ${instruction ? `"${instruction.text}" ` : ''}and does not know how; hardware KVM would run it`,
  };
};

const modelSpecific: Rule = ({ exit, instruction, registers }) => {
  if (exit !== 'SHUTDOWN' || !/^(?:rd|wr)msr$/.test(instruction?.mnemonic ?? '')) return undefined;
  const number = hex(BigInt.asUintN(32, registers.rcx));
  return {
    cause:
      instruction?.mnemonic === 'rdmsr'
        ? `the guest reads model-specific register ${number} (ECX), and this processor has none`
        : `the guest writes model-specific register ${number} (ECX): there is none, or it does not take this value`,
    vector: 13,
  };
};

const segmentLoad: Rule = ({ exit, instruction }) =>
  exit === 'SHUTDOWN' && /^mov\w* .*,%[d-gs]s$/.test(instruction?.text ?? '')
    ? {
        cause: `"${instruction?.text ?? ''}" wants a segment descriptor, and the guest has no descriptor table with a good one there`,
        vector: 13,
      }
    : undefined;

const vmcall: Rule = ({ exit, instruction }) =>
  exit === 'SHUTDOWN' && /^vmm?call$/.test(instruction?.mnemonic ?? '')
    ? {
        cause: `${instruction?.text ?? 'vmcall'} is no instruction for the KVM of this host: it emulates, and raises #UD. Hardware KVM handles it in the kernel; --vmcall model simulates that`,
        vector: 6,
      }
    : undefined;

/** Why a processor refuses: Intel SDM volume 3C, 27.8 (bit 31 set: at entry); AMD APM volume 2, appendix C. */
const entryFailures: Readonly<Record<string, string>> = {
  '0x80000021': 'the guest state is not valid',
  '0x80000022': 'a model-specific register does not load',
  '0x80000029': 'a machine check',
  '0xffffffff': 'the guest state is not valid',
  '0xffffffffffffffff': 'the guest state is not valid',
};

const refusedEntry: Rule = ({ exit, entryFailure }) => {
  if (exit !== 'FAIL_ENTRY') return undefined;
  const reason = hex(entryFailure);
  const meaning = entryFailures[reason] === undefined ? '' : `: ${entryFailures[reason]}`;
  return {
    cause: `the processor does not enter the guest with these registers (reason ${reason}${meaning})`,
  };
};

const noHandler: Rule = ({ exit, instruction }) =>
  exit === 'SHUTDOWN'
    ? {
        cause: `${instruction ? `"${instruction.text}"` : 'an instruction'} raised an exception that was not handled`,
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
  modelSpecific,
  segmentLoad,
  vmcall,
  notEmulated,
  softwareInterrupt,
  noHandler,
];

/** What may lie behind all of it: a guest that has written over its own code or tables, or a handler that failed. */
function suspicion(scene: Scene): string {
  const { damage, registers, imageEnd, special } = scene;
  // 16-bit guests begin with an SP of 0, and wrap
  const isOver = (end: number): boolean => registers.rsp > 0n && registers.rsp <= BigInt(end);
  if (damage) {
    const { at, was, is } = damage;
    const who = isOver(at % windowBytes)
      ? `the stack has grown down to ${hex(registers.rsp)}, over them`
      : 'the guest has written there';
    return `. Its page tables are not those it began with: ${hex(at)} has ${hex(is)}, and had ${hex(was)}; ${who}`;
  }
  if (special.get('cr0') & CR0.PE && isOver(imageEnd))
    return `. The stack has grown down to ${hex(registers.rsp)}, over the guest's code`;
  return handlerNotEntered(scene);
}

/** A guest with an interrupt table shuts down only if neither its handler nor that of a double fault can be entered. */
function handlerNotEntered({ exit, special, registers, stack }: Scene): string {
  const { base, limit } = special.idt;
  if (exit !== 'SHUTDOWN' || limit === 0 || !(special.get('cr0') & CR0.PE)) return '';
  const why = stack.result.mapped ? 'look at its gates' : `RSP is ${hex(registers.rsp)}, ${stack.result.why}`;
  return `. The guest has an interrupt table at ${hex(base)}, but no handler could be entered: ${why}`;
}

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
    cause: `${finding.cause}${suspicion(scene)}`,
    rip: scene.at,
    ...(instruction && {
      instruction: { bytes: bytesText(bytes.subarray(0, instruction.length)), text: instruction.text },
    }),
    ...(vector !== undefined && {
      exception: { vector, name: exceptionName(vector) },
    }),
    ...(finding.walk && { walk: finding.walk }),
  };
}
