/** How a machine's QEMU was started, for whoever adopts it later: written before it starts. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { vmPaths } from './spec.ts';

const schema = z.strictObject({
  format: z.literal(1),
  accelerator: z.enum(['kvm', 'tcg']),
  startedFrom: z.enum(['image', 'template']),
  note: z.string().nullable(),
  /** Does its image have the agent? Without, commands go over the serial line. */
  agent: z.boolean(),
});
/** `Runtime` of the driver's contract, and what we need to know to speak with the guest. */
export type VmRuntime = Omit<z.infer<typeof schema>, 'format'>;

export async function writeRuntime(directory: string, runtime: VmRuntime): Promise<void> {
  await writeFileAtomic(vmPaths(directory).runtime, `${JSON.stringify({ format: 1, ...runtime })}\n`);
}

/** undefined: it was never started. */
export async function readRuntime(directory: string): Promise<VmRuntime | undefined> {
  try {
    const text = await readFile(vmPaths(directory).runtime, 'utf8');
    const { format: _, ...runtime } = schema.parse(JSON.parse(text));
    return runtime;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
