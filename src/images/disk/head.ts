/** The header of a qcow2 file on disk, for the reader of qcow2.ts. */
import { open } from 'node:fs/promises';
import { type Qcow2Header, type Qcow2Limits, parseQcow2, qcow2HeadBytes } from './qcow2.ts';

/** Refuses what `parseQcow2` refuses: above all, a file that lies on another one or keeps its data there. */
export async function readQcow2(path: string, limits: Qcow2Limits): Promise<Qcow2Header> {
  await using file = await open(path, 'r');
  const head = Buffer.alloc(qcow2HeadBytes);
  const { bytesRead } = await file.read(head, 0, head.length, 0);
  const { size } = await file.stat();
  return parseQcow2(head.subarray(0, bytesRead), size, limits);
}
