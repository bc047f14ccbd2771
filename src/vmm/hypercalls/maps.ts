/**
 * Which port means what: a table for each course, chosen with --ports. `byte` output on 0xE9 works in all.
 *
 * `carrel` passes arguments in registers and answers by `in`, so that every call is one exit. The others are those
 * of public solutions to the same assignments, so that guests written for them run unchanged:
 * github.com/academy-dt/kvm-hello-world (shared.h), github.com/bergeramit/kvm-hello-world
 * (communication_scheme.h), and the usual ports for assignment 2 of CS695 at IIT Bombay.
 */
import { byte, number, print } from './console.ts';
import { exits, exitsByType } from './counters.ts';
import * as files from './files.ts';
import { giveUp } from './give-up.ts';
import { type Hypercall, int } from './hypercall.ts';
import { counted, fixed, nothing, packed, type Passing, registers, value } from './passing.ts';
import { translate, translateShort } from './translation.ts';

export interface PortBinding {
  readonly port: number;
  readonly direction: 'in' | 'out';
  readonly call: Hypercall;
  readonly passing: Passing;
}

export interface PortMap {
  readonly name: string;
  readonly doc: string;
  readonly bindings: readonly PortBinding[];
}

/** What the last call answered: for maps that take two exits for a call and its result. */
const result: Hypercall = {
  name: 'result',
  prototype: 'uint32_t result(void)',
  doc: 'what the last call answered',
  run: ({ lastResult }) => lastResult,
};

/** Answers with its argument: the example that the course begins with. */
const echo: Hypercall = {
  name: 'echo',
  prototype: 'uint32_t echo(uint32_t value)',
  doc: 'answers with a value, and does nothing else',
  run: (_, [word]) => int(word) >>> 0,
};

const out = (port: number, call: Hypercall, passing = value): PortBinding => ({
  port,
  direction: 'out',
  call,
  passing,
});
const into = (port: number, call: Hypercall, passing = nothing): PortBinding => ({
  port,
  direction: 'in',
  call,
  passing,
});

const byteOutput = out(0xe9, byte);

export const portMaps: readonly PortMap[] = [
  {
    name: 'carrel',
    doc: 'arguments in registers, the answer by in: one exit for a call (guests/carrel.h)',
    bindings: [
      byteOutput,
      into(0xe5, giveUp, registers),
      into(0xe6, translate, registers),
      out(0xe7, number),
      out(0xe8, print),
      into(0xea, exits),
      into(0xeb, files.open, registers),
      into(0xec, files.read, registers),
      into(0xed, files.write, registers),
      into(0xee, exitsByType, registers),
      into(0xef, files.close),
      into(0xf0, files.fileOpen, registers),
      into(0xf1, files.fileRead, registers),
      into(0xf2, files.fileWrite, registers),
      into(0xf3, files.fileSeek, registers),
      into(0xf4, files.fileClose, registers),
    ],
  },
  {
    name: 'academy-dt',
    doc: 'a call by out, its result by in 0xE9; buffer and length packed into 32 bits',
    bindings: [
      byteOutput,
      out(0xe8, print),
      into(0xe9, result),
      into(0xea, exits),
      out(0xeb, files.open),
      out(0xec, files.read, packed),
      out(0xed, files.write, packed),
      out(0xef, files.close, nothing),
    ],
  },
  {
    name: 'bergeramit',
    doc: 'buffers begin with their length; the result by in from the same port',
    bindings: [
      byteOutput,
      out(0xab, echo),
      into(0xab, echo, fixed(0xabab_abab)),
      out(0xb1, print),
      into(0xb2, exits),
      out(0x0a, files.open),
      into(0x0a, result),
      out(0xcd, files.read, counted),
      into(0xcd, result),
      out(0xdc, files.write, counted),
      into(0xdc, result),
      out(0xcf, files.close, nothing),
    ],
  },
  {
    name: 'cs695',
    doc: 'HC_print8bit, HC_print32bit, HC_numExits, HC_printStr, HC_numExitsByType, HC_gvaToHva',
    bindings: [
      byteOutput,
      out(0xea, number),
      into(0xeb, exits),
      out(0xec, print),
      out(0xed, exitsByType),
      out(0xee, translateShort),
      into(0xef, result),
    ],
  },
];

/** Port and direction as one number: what an exit is looked up by. */
export const portKey = (port: number, isOut: boolean): number => port * 2 + Number(isOut);

/** The calls of a map by `portKey`; undefined if there is no such map. */
export function findPortMap(name: string): ReadonlyMap<number, PortBinding> | undefined {
  const map = portMaps.find((each) => each.name === name);
  if (!map) return undefined;
  return new Map(map.bindings.map((each) => [portKey(each.port, each.direction === 'out'), each]));
}
