/** The JSON lines of the isolation server, parsed at the border. */
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';

const counterPair = z.tuple([z.number(), z.number()]);

export const reportSchema = z.object({
  phase: z.literal('report'),
  exit: z.number().int().nullable(),
  signal: z.string().nullable(),
  killed: z.string().nullable(),
  wall_ms: z.number(),
  cpu_ms: z.number(),
  maxrss_kb: z.number(),
  output_bytes: z.number(),
  exec_errno: z.number().int(),
  pid: z.number().int(),
  counters: z.record(z.string(), counterPair),
});

const identity = {
  pid: z.number().int().positive(),
  start_time: z.string().regex(/^\d+$/),
  keeper: z.number().int().positive(),
  keeper_start_time: z.string().regex(/^\d+$/),
  offset: z.number().int().nonnegative(),
};

export const runningSchema = z.object({ phase: z.literal('running'), ...identity });

const messageSchema = z.discriminatedUnion('phase', [
  reportSchema,
  runningSchema,
  z.object({ phase: z.literal('kept'), ...identity }),
  z.object({ phase: z.literal('attached'), ...identity }),
  z.object({ phase: z.literal('configured') }),
  z.object({ phase: z.literal('gap'), offset: z.number().int().nonnegative() }),
  z.object({ phase: z.literal('cloned'), pid: z.number().int().positive() }),
  z.object({
    phase: z.literal('error'),
    stage: z.string(),
    op: z.string(),
    object: z.string(),
    errno: z.number().int(),
    code: z.string(),
    message: z.string(),
  }),
]);

export type Report = z.infer<typeof reportSchema>;
export type Message = z.infer<typeof messageSchema>;
export type PlanError = Extract<Message, { phase: 'error' }>;

export function parseMessage(payload: Buffer): Message {
  let value: unknown;
  try {
    value = JSON.parse(payload.toString());
  } catch (error) {
    throw new CarrelError('helper_failed', 'The isolation server sent a line that is not JSON', {
      cause: error,
    });
  }
  const parsed = messageSchema.safeParse(value);
  if (!parsed.success)
    throw new CarrelError('helper_failed', 'The isolation server sent an unknown message', {
      cause: parsed.error,
    });
  return parsed.data;
}

/** The error for a plan that could not be carried out: which step, on what, and why. */
export function planError(error: PlanError): CarrelError {
  if (error.stage === 'clone' && error.code === 'EAGAIN')
    return new CarrelError('no_capacity', 'There is no room for another process', {
      hint: 'end some processes, or raise the limit of processes',
    });
  if (error.op === 'keep' && error.code === 'EBUSY')
    return new CarrelError('wrong_state', 'It runs already: somebody else holds its lock');
  const object = error.object ? ` ${error.object}` : '';
  return new CarrelError('internal', `Isolation failed at ${error.op}${object}: ${error.message}`, {
    details: { stage: error.stage, op: error.op, object: error.object, code: error.code },
  });
}
