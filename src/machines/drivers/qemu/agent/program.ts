/** A program as the agent is asked for it, and how it tells of the end. Pure. */
import { constants } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import type { ProgramEnd, RunRequest } from '#contract/schemas/machines.ts';
import type { ExecRequest } from '../../../driver.ts';
import { type PayloadWriter, payload, reading } from './payload.ts';

interface ProgramFacts {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: string;
  readonly tty: { readonly rows: number; readonly columns: number } | null;
  readonly input: boolean;
  /** 0: none. */
  readonly limitMs: number;
  readonly outputBytes: number;
}

function encodeProgram(to: PayloadWriter, facts: ProgramFacts): Buffer {
  const { argv, env, cwd, user, tty, input, limitMs, outputBytes } = facts;
  const variables = Object.entries(env);
  to.u32(limitMs).u64(outputBytes);
  to.u16(tty?.rows ?? 0).u16(tty?.columns ?? 0);
  to.u8(input ? 1 : 0);
  to.text(user).text(cwd);
  to.u32(argv.length);
  for (const argument of argv) to.text(argument);
  to.u32(variables.length);
  for (const [name, value] of variables) to.text(`${name}=${value}`);
  return to.done();
}

/** `credit`: bytes of output that the agent may send at first. */
export function encodeRun(request: RunRequest, { credit }: { credit: number }): Buffer {
  const { limitMs, outputBytes, stdin } = request;
  // 0 would mean no limit: then the first byte is one too many
  return encodeProgram(payload().u32(credit), {
    ...request,
    tty: null,
    input: stdin !== '',
    limitMs,
    outputBytes: Math.max(outputBytes, 1),
  });
}

export function encodeKeep(id: string, request: ExecRequest): Buffer {
  return encodeProgram(payload().text(id), { ...request, input: false, limitMs: 0, outputBytes: 0 });
}

const signalNames: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.signals).map(([name, number]) => [number, name]),
);

export interface Ended {
  readonly end: ProgramEnd;
  readonly wallMs: number;
}

const reasons = ['cancelled', 'wall', 'output', 'cancelled', 'memory'] as const;

/** The payload of `ended`: kind, reason, value, microseconds, bytes of output. */
export function endedOf(bytes: Buffer): Ended {
  const from = reading(bytes);
  const [kind, reason, value, micros] = [from.u32(), from.u32(), from.u32(), from.u32()];
  const wallMs = micros / 1000;
  if (kind === 0 && value < 256) return { end: { kind: 'exited', status: value }, wallMs };
  if (kind === 1 && value > 0 && value < 65)
    return { end: { kind: 'signaled', signal: signalNames.get(value) ?? `SIG${value}` }, wallMs };
  const why = reasons[reason];
  if (kind === 2 && why !== undefined) return { end: { kind: 'killed', reason: why }, wallMs };
  throw new CarrelError('machine_lost', "the machine's agent told an end that is none");
}
