import assert from 'node:assert/strict';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import { imageLimits } from './archive/limits.ts';
import { imageFormats, kindOfFormat } from './import.ts';
import { openImages } from './store.ts';
import { gather, inPieces, scratch, tarOf } from './testing.ts';

const asRoot = process.geteuid?.() === 0 ? false : 'needs root';

test('an exported image comes back the same, in every format', { skip: asRoot }, async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: join(temporary.directory, 'one') });
  const other = await openImages({ cache: join(temporary.directory, 'two') });
  const { hash } = await images.ensure('busybox');
  for (const format of imageFormats.filter((each) => kindOfFormat(each) === 'rootfs')) {
    const source = await images.export('busybox', format);
    const image = await other.import({ name: 'copy', format, source, allowSetuid: true });
    assert.equal(image.hash, hash);
    assert.equal(image.recipeHash, null);
  }
  const twice = await Promise.all([0, 1].map(async () => gather(await images.export('busybox', 'tar'))));
  assert.ok(twice[0]?.equals(twice[1] ?? Buffer.alloc(0)));
});

test('links inside an image, names with backslashes and hard links are kept; setuid bits are not', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const bytes = tarOf(
    { path: './', flag: '5' },
    { path: 'usr/bin/su', body: 'su', mode: 0o4755 },
    { path: 'usr/bin/su2', flag: '1', link: './usr/bin/su' },
    { path: 'bin', flag: '2', link: 'usr/bin' },
    { path: 'etc/alternatives/x', flag: '2', link: '/usr/bin/su' },
    { path: 'usr/lib/system-a\\x2db.slice', body: '' },
    { path: 'usr/lib', flag: '5', mode: 0o750 },
  );
  const image = await images.import({ name: 'x', format: 'tar', source: inPieces(bytes, 999) });
  assert.equal((await lstat(join(image.path, 'usr/bin/su'))).mode & 0o7777, 0o755);
  assert.equal((await lstat(join(image.path, 'usr/bin/su2'))).nlink, 2);
  assert.equal((await lstat(join(image.path, 'usr/lib'))).mode & 0o777, 0o750);
  assert.ok((await lstat(join(image.path, 'bin'))).isSymbolicLink());
  const kept = await images.import({
    name: 'y',
    format: 'tar',
    source: inPieces(bytes, 999),
    allowSetuid: true,
  });
  assert.equal((await lstat(join(kept.path, 'usr/bin/su'))).mode & 0o7777, 0o4755);
});

const attacks: readonly [string, Uint8Array, ErrorCode, RegExp][] = [
  ['an absolute path', tarOf({ path: '/etc/x', body: '' }), 'invalid_archive', /absolute/],
  ['a path that climbs', tarOf({ path: 'a/../../x', body: '' }), 'invalid_archive', /climbs out/],
  [
    'a link that climbs',
    tarOf({ path: 'a/l', flag: '2', link: '../../etc/passwd' }),
    'invalid_archive',
    /leaves the image/,
  ],
  [
    'an absolute link that climbs',
    tarOf({ path: 'l', flag: '2', link: '/../etc' }),
    'invalid_archive',
    /leaves the image/,
  ],
  ['a link to nothing', tarOf({ path: 'l', flag: '2', link: '' }), 'invalid_archive', /impossible target/],
  [
    'a file below a link',
    tarOf({ path: 'l', flag: '2', link: '/tmp' }, { path: 'l/x', body: 'x' }),
    'invalid_archive',
    /not a directory/,
  ],
  [
    'a directory below a link',
    tarOf({ path: 'l', flag: '2', link: '/tmp' }, { path: 'l/x', flag: '5' }),
    'invalid_archive',
    /not a directory/,
  ],
  [
    'a file over a link',
    tarOf({ path: 'l', flag: '2', link: '/tmp/carrel-outside' }, { path: 'l', body: 'x' }),
    'invalid_archive',
    /twice/,
  ],
  [
    'a directory over a link',
    tarOf({ path: 'l', flag: '2', link: '/tmp' }, { path: 'l', flag: '5' }),
    'invalid_archive',
    /twice/,
  ],
  [
    'a hard link to outside',
    tarOf({ path: 'h', flag: '1', link: '/etc/passwd' }),
    'invalid_archive',
    /absolute/,
  ],
  [
    'a hard link that climbs',
    tarOf({ path: 'h', flag: '1', link: '../../etc/passwd' }),
    'invalid_archive',
    /climbs out/,
  ],
  [
    'a hard link through a link',
    tarOf({ path: 'l', flag: '2', link: '/etc' }, { path: 'h', flag: '1', link: 'l/passwd' }),
    'invalid_archive',
    /not a directory/,
  ],
  [
    'a hard link to a link',
    tarOf({ path: 'l', flag: '2', link: '/etc/passwd' }, { path: 'h', flag: '1', link: 'l' }),
    'invalid_archive',
    /does not lead to a file/,
  ],
  [
    'a hard link to what does not exist',
    tarOf({ path: 'h', flag: '1', link: 'x' }),
    'invalid_archive',
    /not in it before/,
  ],
  ['a device', tarOf({ path: 'dev/sda', flag: '4' }), 'invalid_archive', /block device/],
  ['a fifo', tarOf({ path: 'p', flag: '6' }), 'invalid_archive', /fifo/],
  ['a file twice', tarOf({ path: 'a' }, { path: './a' }), 'invalid_archive', /twice/],
  ['an owner out of range', tarOf({ path: 'a', pax: { uid: '4294967295' } }), 'invalid_archive', /ids up to/],
  ['a sparse file', tarOf({ path: 'a', flag: 'S' }), 'invalid_archive', /sparse/],
  [
    'a file of 500 MiB that is not there',
    tarOf({ path: 'a', size: 500 * 2 ** 20 }),
    'invalid_archive',
    /in the middle of "a"/,
  ],
  ['a file of 5 GiB', tarOf({ path: 'a', size: 5 * 2 ** 30 }), 'too_large', /larger than 4 GiB/],
  [
    'too many entries',
    tarOf({ path: 'a' }, { path: 'b' }, { path: 'c' }, { path: 'd' }, { path: 'e' }),
    'too_large',
    /more than 4/,
  ],
  [
    'a name with a newline',
    tarOf({ path: 'x', pax: { path: 'a\nb' } }),
    'invalid_archive',
    /control character/,
  ],
  [
    'a name of 300 characters',
    tarOf({ path: 'x', pax: { path: 'a'.repeat(300) } }),
    'invalid_archive',
    /longer than 255/,
  ],
  [
    'a cut off end',
    tarOf({ path: 'a', body: 'x'.repeat(3000) }).subarray(0, 2000),
    'invalid_archive',
    /in the middle/,
  ],
];

for (const [what, bytes, code, sentence] of attacks)
  test(`an image with ${what} is refused and leaves nothing`, async () => {
    await using temporary = await scratch();
    const images = await openImages({ cache: join(temporary.directory, 'cache') });
    const limits = what === 'too many entries' ? { ...imageLimits, entries: 4 } : imageLimits;
    await assert.rejects(
      images.import({ name: 'x', format: 'tar', source: inPieces(bytes, 4096), limits }),
      (error) => {
        assert.ok(isCarrelError(error, code), String(error));
        assert.match(error.message, sentence);
        return true;
      },
    );
    assert.deepEqual(await readdir(images.layout.tmp), []);
    assert.deepEqual(await images.list(), []);
  });

test('an image with a bad name is refused before anything is read', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  let read = false;
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    read = true;
    yield tarOf();
  }
  for (const name of ['../x', 'A', '', 'x\n', 'x'.repeat(300)])
    await assert.rejects(images.import({ name, format: 'tar', source: source() }), (error) =>
      isCarrelError(error, 'validation_failed'),
    );
  assert.equal(read, false);
});
