/** Scripts run inside a machine, with what came of each line. */
import { z } from 'zod';
import { bytes, id, name, time } from './common.ts';
import { programEnd } from './machines.ts';
import { starter } from './starter.ts';

/** `waiting`: for the machine's first boot; `interrupted`: some lines were not run, `failure` says why. */
export const scriptState = z.enum(['waiting', 'running', 'done', 'interrupted', 'cancelled']);

/** Lines of its own, or those of an earlier script once more. */
export const newScript = z.union([
  starter,
  z.strictObject({ again: id, limitSeconds: starter.shape.limitSeconds.optional() }),
]);
export type NewScript = z.infer<typeof newScript>;

export const script = z.strictObject({
  id,
  machineId: id,
  /** Run by itself when the machine was ready for the first time. */
  starter: z.boolean(),
  state: scriptState,
  failure: z.strictObject({ code: z.string(), message: z.string(), hint: z.string().nullable() }).nullable(),
  lines: z.int(),
  /** Lines that have ended, and those of them that did not end with status 0. */
  ended: z.int(),
  failed: z.int(),
  limitSeconds: z.int(),
  jobId: id.nullable(),
  requester: name.nullable(),
  createdAt: time,
  startedAt: time.nullable(),
  endedAt: time.nullable(),
});
export type Script = z.infer<typeof script>;

export const scriptLineResult = z.strictObject({
  number: z.int(),
  line: z.string(),
  startedAt: time.nullable(),
  wallMs: z.number().nullable(),
  /** null while it has not ended, and where nobody saw its end: then `error` says why. */
  end: programEnd.nullable(),
  error: z.string().nullable(),
  /** The beginning of each stream as text, and how many bytes there were. */
  stdout: z.string(),
  stderr: z.string(),
  stdoutBytes: bytes,
  stderrBytes: bytes,
});
export type ScriptLineResult = z.infer<typeof scriptLineResult>;

export const scriptDetail = script.extend({ results: z.array(scriptLineResult) });
export type ScriptDetail = z.infer<typeof scriptDetail>;
