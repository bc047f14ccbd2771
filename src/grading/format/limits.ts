/** What one run may use. Every run has every limit: what an author leaves out has a default. */
import type { SandboxLimits } from '#isolate/sandbox.ts';
import { z } from 'zod';
import { duration, size } from './fields.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

/** As written in lab.yaml; each upper bound keeps one lab from taking the host. */
export const limitFields = z.strictObject({
  /** Processor time of all processes together. */
  cpu: duration(600_000, '10 minutes').optional(),
  /** Time by the clock; three times the cpu limit and two seconds unless given, because hosts are busy. */
  wall: duration(1_800_000, '30 minutes').optional(),
  memory: size(16 * GiB, '16 GiB', 4 * MiB).optional(),
  processes: z.int().min(1).max(4096).optional(),
  /** Standard output and standard error together. */
  output: size(4 * MiB, '4 MiB').optional(),
  /** Everything written to the working directory and /tmp. */
  disk: size(4 * GiB, '4 GiB', 65_536).optional(),
  /** How many files may be made. */
  files: z.int().min(16).max(1_000_000).optional(),
  /** The largest single file. */
  fileSize: size(4 * GiB, '4 GiB').optional(),
});
export type LimitFields = z.infer<typeof limitFields>;

export type Limits = SandboxLimits;

/** The lab's limits, changed by the check's own. */
export function resolveLimits(...layers: readonly (LimitFields | undefined)[]): Limits {
  const pick = <K extends keyof LimitFields>(key: K): LimitFields[K] =>
    layers.reduce<LimitFields[K]>((value, layer) => layer?.[key] ?? value, undefined);
  const cpuMs = pick('cpu') ?? 3000;
  const tmpBytes = pick('disk') ?? 64 * MiB;
  return {
    cpuMs,
    wallMs: pick('wall') ?? 3 * cpuMs + 2000,
    memoryBytes: pick('memory') ?? 256 * MiB,
    processes: pick('processes') ?? 64,
    outputBytes: pick('output') ?? 65_536,
    tmpBytes,
    tmpFiles: pick('files') ?? 4096,
    fileBytes: pick('fileSize') ?? tmpBytes,
  };
}
