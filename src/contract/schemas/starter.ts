/** Lines for a shell inside a machine: what `starter` of a new machine holds, and what can be run again at any time. */
import { z } from 'zod';

/** As long as a terminal's line may be (termios(3), canonical mode). */
const maxLineBytes = 4096;

export const scriptLine = z
  .string()
  .min(1)
  .refine((line) => !/[\0\r\n]/.test(line), 'one line, without NUL')
  .refine((line) => Buffer.byteLength(line) <= maxLineBytes, `at most ${maxLineBytes} bytes`);

export const starter = z.strictObject({
  /** Each is given to a shell of its own (`/bin/sh -c LINE`), one after the other; one that fails stops nothing. */
  lines: z.array(scriptLine).min(1).max(200),
  /** How long one line may take. */
  limitSeconds: z.int().min(1).max(3600).default(60),
});
export type Starter = z.infer<typeof starter>;
