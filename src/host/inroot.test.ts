import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as fc from 'fast-check';
import { isDirectoryInRoot, listInRoot, readFileInRoot, writeFileInRoot } from './inroot.ts';
import { launchOk } from './launch.ts';

const directory = mkdtempSync(join(tmpdir(), 'inroot-'));
const root = join(directory, 'root');
const secret = join(directory, 'secret');

before(async () => {
  mkdirSync(join(root, 'etc/deep'), { recursive: true });
  writeFileSync(secret, 'the host’s');
  writeFileSync(join(root, 'etc/passwd'), 'the guest’s');
  writeFileSync(join(root, 'secret'), 'the guest’s secret');
  symlinkSync('/etc/passwd', join(root, 'absolute'));
  symlinkSync('../../../../../../secret', join(root, 'etc/deep/up'));
  symlinkSync('loop', join(root, 'loop'));
  symlinkSync('/proc/self/root', join(root, 'magic'));
  symlinkSync(directory, join(root, 'out'));
  await launchOk(['mkfifo', join(root, 'fifo')]);
});
after(() => rmSync(directory, { recursive: true }));

const limit = { maxBytes: 1000 };
async function text(path: string): Promise<string> {
  return (await readFileInRoot(root, path, limit)).toString();
}

test('no path leads out of the tree', async () => {
  for (const path of ['etc/passwd', '/etc/passwd', '../../etc/passwd', 'absolute', '/../absolute'])
    assert.equal(await text(path), 'the guest’s', path);
  for (const path of ['etc/deep/up', '../secret', '/../../secret'])
    assert.equal(await text(path), 'the guest’s secret', path);
  await assert.rejects(text('out/secret'), { code: 'not_found' });
  await assert.rejects(text('magic/etc/passwd'), { code: 'not_found' });
  await assert.rejects(text('loop'), { code: 'invalid_request' });
  await assert.rejects(text('a\0b'), { code: 'invalid_request' });
  await assert.rejects(text('x'.repeat(300)), { code: 'invalid_request' });
});

test('a path through /proc leads nowhere, even when it is mounted in the tree', async () => {
  // the root of a process is the usual tree; ours has a real /proc
  await assert.rejects(readFileInRoot('/', '/proc/self/root/etc/passwd', { maxBytes: 1e6 }), {
    code: 'invalid_request',
  });
  await assert.rejects(readFileInRoot('/', '/proc/self/cwd/package.json', { maxBytes: 1e6 }), {
    code: 'invalid_request',
  });
  assert.ok((await readFileInRoot('/proc/self/root', '/etc/passwd', { maxBytes: 1e6 })).length > 0);
  await assert.rejects(readFileInRoot('/', '/proc/self/status', { ...limit, stayOnMount: true }), {
    code: 'invalid_request',
  });
});

test('random paths of dots, links and names never show the host’s file', async () => {
  const part = fc.constantFrom(
    '..',
    '.',
    '',
    'etc',
    'deep',
    'up',
    'out',
    'magic',
    'absolute',
    'secret',
    'root',
    'passwd',
  );
  await fc.assert(
    fc.asyncProperty(fc.array(part, { maxLength: 8 }), async (parts) => {
      const seen = await text(parts.join('/')).catch(() => '');
      assert.ok(!seen.includes('host'));
    }),
  );
});

test('a FIFO does not block, a device is not opened, a directory is no file', async () => {
  await assert.rejects(text('fifo'), { code: 'invalid_request', message: /no regular file/ });
  await assert.rejects(text('etc'), { code: 'invalid_request' });
  await assert.rejects(readFileInRoot('/', '/dev/zero', limit), { code: 'invalid_request' });
  await assert.rejects(readFileInRoot('/', '/dev/tty', limit), /no regular file/);
});

test('the size limit holds for files that lie about their size', async () => {
  writeFileSync(join(root, 'big'), 'x'.repeat(1001));
  await assert.rejects(text('big'), { code: 'too_large' });
  writeFileSync(join(root, 'big'), 'x'.repeat(1000));
  assert.equal((await text('big')).length, 1000);
  assert.equal(statSync('/proc/self/maps').size, 0);
  await assert.rejects(readFileInRoot('/', '/proc/self/maps', limit), { code: 'too_large' });
});

test('a file is written whole with its mode, and replaces links instead of following them', () => {
  for (const name of ['new', 'absolute2', 'fifo2'])
    writeFileInRoot(root, `etc/${name}`, Buffer.from(name), { mode: 0o750 });
  assert.equal(readFileSync(join(root, 'etc/new'), 'utf8'), 'new');
  assert.equal(lstatSync(join(root, 'etc/new')).mode & 0o7777, 0o750);
  symlinkSync(secret, join(root, 'etc/trap'));
  writeFileInRoot(root, '/etc/trap', Buffer.from('mine'));
  assert.ok(lstatSync(join(root, 'etc/trap')).isFile());
  assert.equal(readFileSync(secret, 'utf8'), 'the host’s');
  writeFileInRoot(root, 'fifo', Buffer.from('no longer a fifo'));
  assert.equal(readFileSync(join(root, 'fifo'), 'utf8'), 'no longer a fifo');
});

test('a write that cannot be leaves nothing, inside or outside', () => {
  const outside = readdirSync(directory).sort();
  assert.throws(() => writeFileInRoot(root, 'out/evil', Buffer.from('x')), { code: 'not_found' });
  assert.throws(() => writeFileInRoot(root, 'missing/x', Buffer.from('x')), { code: 'not_found' });
  assert.throws(() => writeFileInRoot(root, 'etc/deep', Buffer.from('x')), { code: 'invalid_request' });
  for (const bad of ['', '/', '.', '..', 'etc/', 'etc/..'])
    assert.throws(() => writeFileInRoot(root, bad, Buffer.of(1)), { code: 'invalid_request' }, bad);
  assert.deepEqual(readdirSync(directory).sort(), outside);
  assert.ok(!readdirSync(join(root, 'etc')).some((name) => name.startsWith('.carrel-')));
  assert.ok(!existsSync(join(directory, 'evil')));
});

test('owners are set when asked for', { skip: process.getuid?.() === 0 ? false : 'needs root' }, () => {
  writeFileInRoot(root, 'owned', Buffer.from('x'), { uid: 100_000, gid: 100_001, mode: 0o4755 });
  const { uid, gid, mode } = statSync(join(root, 'owned'));
  assert.deepEqual([uid, gid, mode & 0o7777], [100_000, 100_001, 0o4755]);
});

test('a directory is listed without following anything, up to a limit', async () => {
  const { entries, more } = await listInRoot(root, '/');
  assert.equal(more, false);
  const types = Object.fromEntries(entries.map(({ name, type }) => [name, type]));
  assert.equal(types['etc'], 'directory');
  assert.equal(types['out'], 'symlink');
  assert.equal(types['secret'], 'file');
  const some = await listInRoot(root, '/', { maxEntries: 2 });
  assert.equal(some.entries.length, 2);
  assert.equal(some.more, true);
  await assert.rejects(listInRoot(root, 'secret'), { code: 'not_found' });
  await assert.rejects(listInRoot(join(directory, 'nothing'), '/'), { code: 'not_found' });
  assert.equal(isDirectoryInRoot(root, 'etc'), true);
  assert.equal(isDirectoryInRoot(root, 'nothing'), false);
});
