/** What the tests of reading archives share. */
import assert from 'node:assert/strict';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import { gather, inPieces, tarOf } from '../testing.ts';
import { uploadLimits } from './limits.ts';
import { type ArchiveFormat, readArchive } from './read.ts';

/** Kind, mode, path and content of all that comes out. */
export async function names(
  bytes: Uint8Array,
  format: ArchiveFormat,
  limits = uploadLimits,
): Promise<string[]> {
  const list: string[] = [];
  for await (const { path, kind, mode, data } of readArchive(inPieces(bytes, 10_000), format, limits))
    list.push(`${kind} ${mode.toString(8)} ${path} ${(await gather(data)).toString()}`);
  return list;
}

/** Nothing comes out but this error. */
export async function refused(
  bytes: Uint8Array,
  format: ArchiveFormat,
  code: ErrorCode,
  sentence: RegExp,
): Promise<void> {
  await assert.rejects(names(bytes, format), (error) => {
    assert.ok(isCarrelError(error, code), String(error));
    assert.match(error.message, sentence);
    return true;
  });
}

/** Nothing is wrong with it; a setuid bit is to be left behind. */
export const goodTar = tarOf(
  { path: './', flag: '5', mode: 0o755 },
  { path: './src/', flag: '5', mode: 0o755 },
  { path: './src/a.py', body: "print('ä')" },
  { path: 'run', body: '#!/bin/sh', mode: 0o4755 },
);
