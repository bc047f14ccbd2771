/** For tests of the monitor: guests from a few lines of C or a few bytes, run to their end. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { compileGuest } from './image/compile.ts';
import { flatImage, type GuestImage } from './image/image.ts';
import { createMachine, type RunOptions, type VcpuResult } from './machine.ts';
import type { ModeName } from './modes/mode.ts';
import { modes } from './modes/table.ts';

export const code = (...bytes: readonly number[]): GuestImage => flatImage(Uint8Array.from(bytes));

/** Runs one vCPU. */
export async function run(
  image: GuestImage,
  { mode = 'long', ...options }: RunOptions & { mode?: ModeName } = {},
): Promise<VcpuResult> {
  using machine = createMachine({ mode, image });
  const [result] = await machine.run({ limitMs: 120_000, ...options });
  assert.ok(result);
  return result;
}

/** Compiles a guest in C, with the kit's header. */
export async function compile(
  context: TestContext,
  text: string,
  mode: ModeName = 'long',
): Promise<GuestImage> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-vmm-'));
  context.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, 'guest.c'), `#include "carrel.h"\n${text}\n`);
  return await compileGuest(join(directory, 'guest.c'), modes[mode]);
}
