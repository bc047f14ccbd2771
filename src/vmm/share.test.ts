import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { constants } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { constants as os, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { Share } from './share.ts';

const { EACCES, EBADF, EDQUOT, EINVAL, EMFILE, ENODEV, ENOENT } = os.errno;
const { O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC } = constants;

/** A share beside a file that no guest may see. */
async function makeShare(context: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-share-'));
  context.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, 'secret'), 'of the host');
  await mkdir(join(directory, 'share'));
  return join(directory, 'share');
}

const text = (data: Uint8Array | number): string =>
  typeof data === 'number' ? `errno ${-data}` : Buffer.from(data).toString('utf8');

test('files are made, read, written and sought; the lowest free number is taken', async (context) => {
  const root = await makeShare(context);
  const share = new Share(root);
  assert.equal(share.open('a', O_RDWR | O_CREAT), 1);
  assert.equal(share.open('b', O_RDWR | O_CREAT), 2);
  assert.equal(share.write(1, Buffer.from('12345')), 5);
  assert.equal(text(share.read(1, 10)), '');
  assert.equal(share.seek(1, 2, 0), 2);
  assert.equal(text(share.read(1, 2)), '34');
  assert.equal(share.seek(1, -1, 2), 4);
  assert.equal(text(share.read(1, 10)), '5');
  assert.equal(share.seek(1, 0, 9), -EINVAL);
  assert.equal(share.seek(1, -9, 0), -EINVAL);
  assert.equal(share.close(1), 0);
  assert.equal(share.close(1), -EBADF);
  assert.equal(text(share.read(1, 1)), `errno ${EBADF}`);
  assert.equal(share.write(7, Buffer.from('x')), -EBADF);
  assert.equal(share.open('a', O_RDWR | O_APPEND), 1);
  assert.equal(share.write(1, Buffer.from('6')), 1);
  share.closeAll();
  assert.equal(await readFile(join(root, 'a'), 'utf8'), '123456');
  assert.equal(share.open('a', O_RDWR | O_TRUNC), 1);
  share.closeAll();
  assert.equal(await readFile(join(root, 'a'), 'utf8'), '');
});

test('nothing outside of the share is opened, by no path and no link, and nothing but files', async (context) => {
  const root = await makeShare(context);
  await symlink('/etc/hostname', join(root, 'absolute'));
  await symlink('../secret', join(root, 'relative'));
  await symlink('nowhere', join(root, 'dangling'));
  await mkdir(join(root, 'directory'));
  execFileSync('mkfifo', [join(root, 'fifo')]);
  const share = new Share(root);
  for (const path of ['../secret', '/etc/hostname', 'absolute', 'relative', 'missing', 'dangling'])
    assert.equal(share.open(path, O_RDONLY), -ENOENT, path);
  // made inside, where the link's target would be seen from there
  assert.equal(share.open('dangling', O_RDWR | O_CREAT), -ENOENT);
  assert.equal(share.open('../secret', O_RDWR | O_CREAT), 1);
  assert.equal(share.close(1), 0);
  assert.equal(await readFile(join(root, 'secret'), 'utf8'), '');
  assert.equal(await readFile(join(root, '..', 'secret'), 'utf8'), 'of the host');
  for (const path of ['directory', 'fifo', '.', '']) assert.equal(share.open(path, O_RDONLY), -EACCES, path);
  assert.equal(share.open('a\0b', O_RDONLY), -EACCES);
});

test('a guest has so many files and bytes, and without a share none', async (context) => {
  const root = await makeShare(context);
  const share = new Share(root, { files: 2, creations: 3, writtenBytes: 10_000 });
  assert.deepEqual(
    ['a', 'b', 'c'].map((name) => share.open(name, O_RDWR | O_CREAT)),
    [1, 2, -EMFILE],
  );
  assert.equal(share.write(1, Buffer.alloc(8192)), 8192);
  assert.equal(share.write(2, Buffer.alloc(1809)), -EDQUOT);
  assert.equal(share.write(2, Buffer.alloc(1808)), 1808);
  assert.equal(share.write(2, Buffer.alloc(1)), -EDQUOT);
  share.closeAll();
  assert.equal(share.open('d', O_RDWR | O_CREAT), 1);
  assert.equal(share.open('e', O_RDWR | O_CREAT), -EDQUOT);
  assert.equal(share.open('a', O_RDONLY), 2);
  share.closeAll();
  assert.equal(new Share(undefined).open('a', O_RDONLY), -ENODEV);
});

test('single bytes far apart count as what they take on the disk', async (context) => {
  const root = await makeShare(context);
  const share = new Share(root, { files: 2, creations: 3, writtenBytes: 2 ** 20 });
  assert.equal(share.open('sparse', O_RDWR | O_CREAT), 1);
  let written = 0;
  for (; written < 1000; written += 1) {
    assert.ok(share.seek(1, written * 65_536, 0) >= 0);
    if (share.write(1, Buffer.from('x')) < 0) break;
  }
  share.closeAll();
  // 4 KiB blocks, or larger ones
  assert.ok(written > 0 && written <= 256, `${written} of 1000`);
});
