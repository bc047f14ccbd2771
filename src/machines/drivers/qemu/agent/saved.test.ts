import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import type { Terminal } from '../../../driver.ts';
import { dropOutput, openOutput, saveOutput, saving } from './saved.ts';
import { createTranscript } from './transcript.ts';

const MiB = 2 ** 20;

function terminalOf(bytes: number, end?: ProgramEnd): Terminal {
  const transcript = createTranscript();
  for (let at = 0; at < bytes; at += 65_536) {
    const piece = Buffer.alloc(Math.min(65_536, bytes - at));
    for (let index = 0; index < piece.length; index += 4) piece.writeUInt32LE(at + index, index);
    transcript.add(at, piece);
  }
  return {
    read: (from, maxBytes) => transcript.read(from, maxBytes),
    watch: () => () => undefined,
    write: () => Promise.resolve(),
    resize: () => Promise.resolve(),
    end,
    close: () => undefined,
  };
}

async function scratch(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-saved-'));
  try {
    await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

test('what was read reads the same afterwards, whatever its length, with the hole that it had', async () => {
  await scratch(async (directory) => {
    for (const bytes of [0, 4, 65_536, MiB, MiB + 4, 2 * MiB, 3 * MiB + 8, 5 * MiB]) {
      const terminal = terminalOf(bytes, { kind: 'exited', status: 3 });
      await saveOutput(directory, 'x-1', terminal);
      const again = await openOutput(directory, 'x-1');
      for (const from of [0, 4, MiB - 4, MiB, MiB + 4, bytes - 4, bytes])
        if (from >= 0 && from <= bytes)
          for (const most of [0, 8, MiB])
            assert.deepEqual(
              { ...again.read(from, most), bytes: Buffer.from(again.read(from, most).bytes) },
              { ...terminal.read(from, most), bytes: Buffer.from(terminal.read(from, most).bytes) },
              `${bytes} bytes, ${most} from ${from}`,
            );
      assert.deepEqual(again.end, { kind: 'exited', status: 3 });
    }
  });
});

test('a program whose end nobody saw has ended with its machine; what was dropped is gone', async () => {
  await scratch(async (directory) => {
    const terminal = saving(directory, 'x-1', terminalOf(8));
    await assert.rejects(openOutput(directory, 'x-1'), { code: 'gone' });
    terminal.close();
    const again = await openOutput(directory, 'x-1'); // it waits for what is being written
    assert.deepEqual(again.end, { kind: 'killed', reason: 'cancelled' });
    assert.equal(again.read(0).total, 8);
    await dropOutput(directory, 'x-1');
    await assert.rejects(openOutput(directory, 'x-1'), { code: 'gone' });
  });
});

test('what is dropped while it is written down, or looked at, stays away', async () => {
  await scratch(async (directory) => {
    const looking = saving(directory, 'x-1', terminalOf(MiB));
    const closed = saving(directory, 'x-1', terminalOf(MiB));
    closed.close();
    await dropOutput(directory, 'x-1');
    looking.close();
    await sleep(50);
    await assert.rejects(openOutput(directory, 'x-1'), { code: 'gone' });
  });
});
