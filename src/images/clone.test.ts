import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, open, readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { checkUpper, createCloner } from './clone.ts';
import { openLayout } from './layout.ts';
import { ownerPatches } from './template.ts';
import { type Scratch, scratch } from './testing.ts';

const asRoot = process.geteuid?.() === 0 ? false : 'needs root';
const MiB = 2 ** 20;

function debugfs(image: string, request: string): string {
  return execFileSync('debugfs', ['-R', request, image], { stdio: ['ignore', 'pipe', 'ignore'] }).toString();
}

async function layoutIn({ directory }: Scratch): ReturnType<typeof openLayout> {
  return openLayout(join(directory, 'cache'));
}

test(
  'a new layer is a sound ext4 file system whose directories belong to the machine',
  { skip: asRoot },
  async () => {
    await using temporary = await scratch();
    const cloner = createCloner(await layoutIn(temporary), { loop: true });
    const { directory } = temporary;
    for (const bytes of [4 * MiB, 64 * MiB, 1024 * MiB + 1, 20 * 1024 * MiB])
      for (const uidBase of [0, 100_000, 2_000_000_000]) {
        const upper = await cloner.prepareUpper({ directory, bytes, uidBase });
        assert.ok(upper.kind === 'loop' && upper.enforced);
        const { size, blocks } = await stat(upper.imagePath);
        assert.equal(size, Math.ceil(bytes / 4096) * 4096);
        assert.ok(blocks * 512 < MiB, 'it is sparse');
        execFileSync('e2fsck', ['-f', '-n', upper.imagePath], { stdio: 'ignore' });
        for (const name of ['upper', 'work']) {
          const text = debugfs(upper.imagePath, `stat ${name}`);
          const owner = /User:\s+(\d+)\s+Group:\s+(\d+)/.exec(text);
          assert.deepEqual([owner?.[1], owner?.[2]], [String(uidBase), String(uidBase)]);
          assert.match(text, name === 'upper' ? /Mode:\s+0755/ : /Mode:\s+0700/);
        }
        assert.equal(await checkUpper(upper.imagePath), 'clean');
      }
  },
);

test('templates are made once, by however many at the same time', { skip: asRoot }, async () => {
  await using temporary = await scratch();
  const layout = await layoutIn(temporary);
  const { directory } = temporary;
  const names = ['a', 'b', 'c', 'd'];
  const cloners = names.map(() => createCloner(layout, { loop: true }));
  const uppers = await Promise.all(
    cloners.map(async (cloner, index) => {
      const place = join(directory, `machine-${index}`);
      await mkdir(place);
      return cloner.prepareUpper({ directory: place, bytes: 16 * MiB, uidBase: 1000 });
    }),
  );
  assert.equal((await readdir(layout.templates)).length, 1);
  assert.deepEqual(await readdir(layout.tmp), []);
  const contents = await Promise.all(
    uppers.map(async (upper) => (upper.kind === 'loop' ? readFile(upper.imagePath) : '')),
  );
  for (const content of contents) assert.ok(Buffer.isBuffer(content) && content.length === 16 * MiB);
});

test('the layer of a machine that was reset holds nothing of the old one', { skip: asRoot }, async () => {
  await using temporary = await scratch();
  const cloner = createCloner(await layoutIn(temporary), { loop: true });
  const request = { directory: temporary.directory, bytes: 8 * MiB, uidBase: 1000 };
  const first = await cloner.prepareUpper(request);
  assert.ok(first.kind === 'loop');
  const fresh = await readFile(first.imagePath);
  await writeFile(first.imagePath, Buffer.alloc(8 * MiB, 'secret'));
  await cloner.prepareUpper(request);
  assert.ok((await readFile(first.imagePath)).equals(fresh));
});

test(
  'a layer that was not unmounted is repaired; one that is no file system is reported',
  { skip: asRoot },
  async () => {
    await using temporary = await scratch();
    const cloner = createCloner(await layoutIn(temporary), { loop: true });
    const upper = await cloner.prepareUpper({
      directory: temporary.directory,
      bytes: 64 * MiB,
      uidBase: 1000,
    });
    assert.ok(upper.kind === 'loop');
    const file = await open(upper.imagePath, 'r+');
    try {
      await file.write(Uint8Array.of(0), 0, 1, 1024 + 0x3a); // not clean
      await file.write(Uint8Array.of(0xff, 0xff), 0, 2, 1024 + 0x0c); // a wrong count of free blocks
    } finally {
      await file.close();
    }
    assert.equal(await checkUpper(upper.imagePath), 'repaired');
    assert.equal(await checkUpper(upper.imagePath), 'clean');
    execFileSync('e2fsck', ['-f', '-n', upper.imagePath], { stdio: 'ignore' });
    await writeFile(upper.imagePath, Buffer.alloc(64 * MiB, 1));
    await assert.rejects(checkUpper(upper.imagePath), (error) => isCarrelError(error, 'machine_lost'));
  },
);

test('without loop devices there is a directory, and it says that nothing limits it', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  const cloner = createCloner(await layoutIn(temporary), { loop: false });
  const uidBase = process.geteuid?.() === 0 ? 70_000 : 0;
  const upper = await cloner.prepareUpper({ directory, bytes: 8 * MiB, uidBase });
  assert.ok(upper.kind === 'directory' && !upper.enforced);
  assert.deepEqual((await readdir(upper.path)).sort(), ['upper', 'work']);
  assert.equal((await stat(join(upper.path, 'upper'))).mode & 0o777, 0o755);
  if (asRoot === false) assert.equal((await stat(join(upper.path, 'work'))).uid, uidBase);
});

test('a disk that is too small, or no number at all, is refused and makes nothing', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  const layout = await layoutIn(temporary);
  const cloner = createCloner(layout, { loop: true });
  for (const bytes of [0, -1, 1.5, Number.NaN, MiB, 2 ** 60])
    await assert.rejects(cloner.prepareUpper({ directory, bytes, uidBase: 0 }), (error) =>
      isCarrelError(error, 'validation_failed'),
    );
  assert.deepEqual(await readdir(directory), ['cache']);
});

test('the two halves of an owner are written where ext4 keeps them', () => {
  const id = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  fc.assert(
    fc.property(id, id, (uid, gid) => {
      const inode = Buffer.alloc(256);
      for (const { offset, data } of ownerPatches(0, uid, gid)) inode.set(data, offset);
      assert.equal(inode.readUInt16LE(0x02) + inode.readUInt16LE(0x78) * 65_536, uid);
      assert.equal(inode.readUInt16LE(0x18) + inode.readUInt16LE(0x7a) * 65_536, gid);
    }),
  );
});
