/** The smallest guest in each mode, and whether it did what it should. */
import { join } from 'node:path';
import { isCarrelError } from '#base/errors.ts';
import { describeEnd } from './end.ts';
import { compileGuest, kit } from './image/compile.ts';
import { createMachine } from './machine.ts';
import type { ModeName } from './modes/mode.ts';
import { requireMode } from './modes/require.ts';
import { modes } from './modes/table.ts';
import { prepareThread } from './threads.ts';

/** What every hello guest leaves in RAX, and in memory at 0x400. */
const answer = 42;
const answerAt = 0x400;

export interface Hello {
  readonly mode: ModeName;
  readonly title: string;
  readonly ok: boolean;
  readonly output: string;
  readonly exits: number;
  /** From creation of the machine to its end, the compiler not counted. */
  readonly ms: number;
  /** What is wrong, or why this host cannot. */
  readonly reason?: string;
  /** The host cannot: not the guest's fault. */
  readonly refused?: true;
}

/** What is wrong with the result; undefined if nothing is. */
function complaint(name: ModeName, rax: bigint, stored: number): string | undefined {
  const register = { 16: 'AX', 32: 'EAX', 64: 'RAX' }[modes[name].bits];
  if (rax !== BigInt(answer)) return `Wrong result: ${register} is ${rax}`;
  return stored === answer ? undefined : `Wrong result: memory at 0x400 is ${stored}`;
}

/** Runs the hello guest of a mode. Throws `host_unsupported` where the host cannot. */
export async function hello(name: ModeName): Promise<Hello> {
  await requireMode(name, 1);
  prepareThread();
  const mode = modes[name];
  const source = name === 'real' ? 'real.S' : 'hello.c';
  const image = await compileGuest(join(kit, 'examples', source), mode);
  const began = performance.now();
  using machine = createMachine({ mode: name, image });
  const [result] = await machine.run();
  const ms = performance.now() - began;
  const stored = machine.memory.view.getUint16(answerAt, true);
  const wrong =
    result?.end.kind === 'halted'
      ? complaint(name, result.registers.rax, stored)
      : result && describeEnd(result.end);
  return {
    mode: name,
    title: mode.title,
    ok: wrong === undefined,
    output: result?.output ?? '',
    exits: result?.exits.total ?? 0,
    ms,
    ...(wrong !== undefined && { reason: wrong }),
  };
}

/** The same, where a host that cannot is an answer too. */
export async function tryHello(name: ModeName): Promise<Hello> {
  try {
    return await hello(name);
  } catch (error) {
    if (!isCarrelError(error, 'host_unsupported')) throw error;
    const reason = `${error.message}${error.hint === undefined ? '' : `: ${error.hint}`}`;
    return {
      mode: name,
      title: modes[name].title,
      ok: false,
      output: '',
      exits: 0,
      ms: 0,
      reason,
      refused: true,
    };
  }
}
