/** A process for the test of online steps: boots a disk that is being made, begins a step, and waits to be killed. */
import { z } from 'zod';
import { startForkServer } from '#isolate/server.ts';
import { createOnlineRunner } from './online.ts';

const argument = z.strictObject({
  directory: z.string(),
  instance: z.string(),
  socket: z.string(),
  image: z.strictObject({ disk: z.string(), kernel: z.string(), initrd: z.string(), append: z.string() }),
});

/** Should nobody kill it. */
const lifeMs = 240_000;
setTimeout(() => process.exit(3), lifeMs);

const { socket, image, ...host } = argument.parse(JSON.parse(process.argv[2] ?? ''));
const server = await startForkServer({ socket });
await createOnlineRunner({ server, ...host })({
  ...image,
  agent: true,
  steps: [
    { argv: ['true'], seconds: 60 },
    { argv: ['sleep', '600'], seconds: 600 },
  ],
  onReport: () => void process.stdout.write('at work\n'),
  signal: undefined,
});
