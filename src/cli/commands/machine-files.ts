/** Files in and out of a machine. */
import { createWriteStream } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { formatSize } from '#base/units.ts';
import { chunksOf } from '../archive.ts';
import type { Action } from '../spec.ts';

export const machinePut: Action = async ({ args, out, connect }) => {
  const file = args.word('file');
  const bytes = file === '-' ? await buffer(process.stdin) : await readFile(file);
  const { client } = await connect();
  const machine = args.word('machine');
  const path = args.word('path');
  const mode = args.option('mode');
  await client.writeFile({
    params: { machine },
    query: { path, ...(mode !== undefined && { mode }) },
    bytes,
  });
  out.result({ machine, path, bytes: bytes.length }, () => `${machine}:${path}  ${formatSize(bytes.length)}`);
  return undefined;
};

export const machineGet: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const machine = args.word('machine');
  const path = args.word('path');
  const target = args.wordIf('file') ?? path.split('/').at(-1) ?? 'file';
  const data = await client.readFile({ params: { machine }, query: { path } });
  if (target === '-') {
    for await (const chunk of chunksOf(data)) await out.bytes(chunk);
    return undefined;
  }
  const stream = createWriteStream(target);
  try {
    await pipeline(Readable.from(chunksOf(data)), stream);
  } catch (error) {
    await rm(target, { force: true });
    throw error;
  }
  out.result(
    { file: target, bytes: stream.bytesWritten },
    () => `${target}  ${formatSize(stream.bytesWritten)}`,
  );
  return undefined;
};
