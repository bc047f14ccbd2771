/** What is well and what is not. Parts report here; a part that is missing degrades the cloud, never ends it. */
import type { z } from 'zod';
import type { health as healthSchema } from '#contract/schemas/jobs.ts';

export type HealthReport = z.infer<typeof healthSchema>;

export interface HealthOptions {
  readonly version: string;
  readonly database: () => Promise<boolean>;
  readonly isolation: () => Promise<boolean>;
  readonly machines: () => Promise<boolean>;
  readonly uplink: () => Promise<boolean>;
}

export interface Health {
  report(): Promise<HealthReport>;
}

/** A question that is not answered in time is answered with no. */
async function answered(question: () => Promise<boolean>, ms = 2000): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([question().catch(() => false), late]);
  } finally {
    clearTimeout(timer);
  }
}

export function createHealth({ version, database, isolation, machines, uplink }: HealthOptions): Health {
  const startedAt = new Date().toISOString();
  return {
    async report() {
      const [hasDatabase, hasIsolation, hasMachines, hasUplink] = await Promise.all([
        answered(database),
        answered(isolation),
        answered(machines),
        answered(uplink),
      ]);
      return {
        status: hasDatabase && hasIsolation && hasMachines ? 'ok' : 'degraded',
        version,
        startedAt,
        database: hasDatabase ? 'ok' : 'unavailable',
        isolation: hasIsolation ? 'ok' : 'unavailable',
        machines: hasMachines ? 'ok' : 'unavailable',
        uplink: hasUplink ? 'ok' : 'none',
      };
    },
  };
}
