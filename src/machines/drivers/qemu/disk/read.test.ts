import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { readStopped } from './read.ts';

test('a disk that is gone is not taken for one without the file', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-read-'));
  try {
    await assert.rejects(
      readStopped({ directory, image: '/nonexistent' }, '/etc/motd', { maxBytes: 10 }),
      (error) => isCarrelError(error, 'machine_lost'),
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
