/** What the doorman tells the daemon about the fabric, in one environment variable. */
import { networkInterfaces } from 'node:os';
import * as z from 'zod';

export const fabricVariable = 'CARREL_FABRIC';

const environmentSchema = z.strictObject({
  /** The namespace the daemon must find itself in. */
  netns: z.string(),
  /** The host's own IPv4 addresses: closed to machines. */
  hostAddresses: z.array(z.string()),
  /** Where the uplink answers DNS. */
  resolver: z.string().optional(),
  /** The doorman's socket. */
  control: z.string(),
});

export type FabricEnvironment = z.infer<typeof environmentSchema>;

/** undefined when the process was not started by a doorman. */
export function fabricEnvironment(env: NodeJS.ProcessEnv = process.env): FabricEnvironment | undefined {
  const text = env[fabricVariable];
  return text === undefined ? undefined : environmentSchema.parse(JSON.parse(text));
}

/** The IPv4 addresses of the namespace we are in, loopback aside. */
export function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ family, internal }) => family === 'IPv4' && !internal)
    .map(({ address }) => address);
}
