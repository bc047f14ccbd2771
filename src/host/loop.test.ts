import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launchOk } from './launch.ts';
import { attachLoop } from './loop.ts';

const skip =
  process.getuid?.() === 0 && existsSync('/dev/loop-control') ? false : 'needs root and the loop module';

/** The file a loop device is attached to, as the kernel says; undefined when it is free. */
function backing(device: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${basename(device)}/loop/backing_file`, 'utf8').trim();
  } catch {
    return undefined;
  }
}

test('a file becomes a block device, and the device goes with its last opener', { skip }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'loop-'));
  const image = join(directory, 'upper.img');
  writeFileSync(image, '');
  truncateSync(image, 16 << 20);
  const first = attachLoop(image);
  const second = attachLoop(image, { readOnly: true });
  assert.notEqual(first.path, second.path);
  assert.equal(backing(first.path), image);
  await launchOk(['mke2fs', '-q', '-t', 'ext4', first.path]);
  first.device.close();
  second.device.close();
  // somebody else may take the device at once: then it is somebody else's file
  for (const { path } of [first, second])
    await until(5000, `${path} to be free`, () => (backing(path) === image ? undefined : true));
  rmSync(directory, { recursive: true });
});
