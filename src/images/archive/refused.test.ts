/** Archives that somebody has made on purpose. */
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { ErrorCode } from '#base/errors.ts';
import { tarOf, zipOf } from '../testing.ts';
import type { ArchiveFormat } from './read.ts';
import { goodTar, refused } from './testing.ts';

const badNames: readonly [string, RegExp][] = [
  ['/etc/passwd', /absolute/],
  ['../up', /climbs out/],
  ['a/../../up', /climbs out/],
  ['a\\..\\b', /backslash/],
  ['two\nlines', /control character/],
  ['n'.repeat(300), /longer than 255/],
  [`${'d/'.repeat(600)}f`, /longer than 1024/],
];

for (const [path, why] of badNames) {
  test(`a tar entry called ${JSON.stringify(path.slice(0, 20))} is refused`, async () => {
    await refused(tarOf({ path: 'x', pax: { path }, body: '' }), 'tar', 'invalid_archive', why);
  });
  test(`a zip entry called ${JSON.stringify(path.slice(0, 20))} is refused`, async () => {
    await refused(zipOf([{ path }]), 'zip', 'invalid_archive', why);
  });
}

for (const [flag, kind] of [
  ['1', 'hardlink'],
  ['2', 'symlink'],
  ['3', 'character device'],
  ['4', 'block device'],
  ['6', 'fifo'],
] as const)
  test(`a ${kind} in an upload is refused`, async () => {
    const bytes = tarOf({ path: 'ok', body: '1' }, { path: 'evil', flag, link: '/etc/passwd' });
    await refused(bytes, 'tar', 'invalid_archive', new RegExp(`"evil" in the archive is a ${kind}`));
  });

const attacks: readonly [string, Uint8Array, ArchiveFormat, ErrorCode, RegExp][] = [
  [
    'the same name twice',
    tarOf({ path: 'a' }, { path: './a' }),
    'tar',
    'invalid_archive',
    /"a" occurs twice/,
  ],
  [
    'a file that is a directory too',
    tarOf({ path: 'a' }, { path: 'a/b' }),
    'tar',
    'invalid_archive',
    /is a file/,
  ],
  [
    'a directory that becomes a file',
    tarOf({ path: 'a/b' }, { path: 'a' }),
    'tar',
    'invalid_archive',
    /twice/,
  ],
  ['a GNU sparse file', tarOf({ path: 's', flag: 'S' }), 'tar', 'invalid_archive', /sparse/],
  [
    'a pax sparse file',
    tarOf({ path: 's', pax: { 'GNU.sparse.major': '1', 'GNU.sparse.name': '/x' } }),
    'tar',
    'invalid_archive',
    /sparse/,
  ],
  ['a volume label', tarOf({ path: 's', flag: 'V' }), 'tar', 'invalid_archive', /unknown type/],
  [
    'a global header that renames everything',
    tarOf({ path: 'g', flag: 'g', body: '12 path=abc\n' }, { path: 'a' }),
    'tar',
    'invalid_archive',
    /for all of its entries/,
  ],
  [
    'a size beyond all numbers',
    tarOf({ path: 'a', patch: [{ at: 124, bytes: Uint8Array.of(0x80, 255, 255, 255, 255, 255, 255, 255) }] }),
    'tar',
    'invalid_archive',
    /impossible size/,
  ],
  [
    'a negative size',
    tarOf({ path: 'a', patch: [{ at: 124, bytes: new Uint8Array(12).fill(255) }] }),
    'tar',
    'invalid_archive',
    /negative size/,
  ],
  [
    'a pax size that is no number',
    tarOf({ path: 'a', pax: { size: '-5' } }),
    'tar',
    'invalid_archive',
    /unreadable size/,
  ],
  [
    'a name that is not UTF-8',
    tarOf({ path: 'a', patch: [{ at: 0, bytes: Uint8Array.of(0xff, 0xfe) }] }),
    'tar',
    'invalid_archive',
    /not UTF-8/,
  ],
  [
    'an extended header of a gigabyte',
    tarOf({ path: 'x', flag: 'x', size: 2 ** 30 }),
    'tar',
    'too_large',
    /extended header/,
  ],
  [
    'a long name of a gigabyte',
    tarOf({ path: 'x', flag: 'L', size: 2 ** 30 }),
    'tar',
    'too_large',
    /extended header/,
  ],
  [
    'a directory with content',
    tarOf({ path: 'd', flag: '5', body: 'x' }),
    'tar',
    'invalid_archive',
    /with content/,
  ],
  [
    'a second archive behind the first',
    Buffer.concat([tarOf({ path: 'a' }), tarOf({ path: 'b' })]),
    'tar',
    'invalid_archive',
    /goes on/,
  ],
  [
    'endless zeros behind the end',
    Buffer.concat([tarOf(), Buffer.alloc(2 ** 21)]),
    'tar',
    'too_large',
    /padding/,
  ],
  [
    'a file that claims 500 MiB',
    tarOf({ path: 'big', size: 500 * 2 ** 20 }),
    'tar',
    'too_large',
    /"big" .* larger than 64 MiB/,
  ],
  ['text instead of an archive', Buffer.alloc(2048, 'hello '), 'tar', 'invalid_archive', /not a tar file/],
  ['gzip stated, tar sent', goodTar, 'tar.gz', 'invalid_archive', /not gzip/],
  ['zstd stated, gzip sent', gzipSync(goodTar), 'tar.zst', 'invalid_archive', /not zstd/],
  ['tar stated, gzip sent', gzipSync(goodTar), 'tar', 'invalid_archive', /./],
  ['zip stated, tar sent', goodTar, 'zip', 'invalid_archive', /not a zip/],
  ['nothing at all', Buffer.alloc(0), 'zip', 'invalid_archive', /not a zip/],
  ['nothing at all as tar', Buffer.alloc(0), 'tar', 'invalid_archive', /cut off/],
  [
    'a bomb of zeros',
    gzipSync(tarOf({ path: 'z', body: Buffer.alloc(40 * 2 ** 20) })),
    'tar.gz',
    'too_large',
    /grows more than 200/,
  ],
  [
    'a zip bomb',
    zipOf([{ path: 'z', body: Buffer.alloc(40 * 2 ** 20) }]),
    'zip',
    'too_large',
    /grows more than 200/,
  ],
  [
    'a zip that lies about a size',
    zipOf([{ path: 'z', body: Buffer.alloc(50_000, 'ab'), size: 10 }]),
    'zip',
    'invalid_archive',
    /longer than it says/,
  ],
  [
    'a zip with a wrong checksum',
    zipOf([{ path: 'z', body: 'abc', crc: 1 }]),
    'zip',
    'invalid_archive',
    /checksum/,
  ],
  [
    'a zip whose entries share their bytes',
    zipOf([
      { path: 'a', body: 'x' },
      { path: 'b', body: 'x', overlap: true, localPath: 'a' },
    ]),
    'zip',
    'invalid_archive',
    /another header/,
  ],
  [
    'a zip whose equal entries share their bytes',
    zipOf([
      { path: 'a', body: 'x' },
      { path: 'a', body: 'x', overlap: true },
    ]),
    'zip',
    'invalid_archive',
    /overlaps/,
  ],
  [
    'a zip with two stories about a name',
    zipOf([{ path: 'a', localPath: '../a' }]),
    'zip',
    'invalid_archive',
    /another header/,
  ],
  [
    'an encrypted zip',
    zipOf([{ path: 'a', body: 'x', flags: 0x801 }]),
    'zip',
    'invalid_archive',
    /encrypted/,
  ],
  [
    'a zip with another method',
    zipOf([{ path: 'a', body: 'x', method: 12 }]),
    'zip',
    'invalid_archive',
    /method 12/,
  ],
  [
    'a link in a zip',
    zipOf([{ path: 'l', body: '/etc/passwd', unixMode: 0o120777 }]),
    'zip',
    'invalid_archive',
    /"l" .* is a symlink/,
  ],
  [
    'a device in a zip',
    zipOf([{ path: 'd', unixMode: 0o60644 }]),
    'zip',
    'invalid_archive',
    /"d" .* is a special/,
  ],
  ['a zip with a wrong count', zipOf([{ path: 'a' }], { count: 2 }), 'zip', 'invalid_archive', /damaged/],
  ['a zip64', zipOf([{ path: 'a', size: 0xffffffff }]), 'zip', 'invalid_archive', /zip64/],
  [
    'a zip behind something else',
    Buffer.concat([Buffer.from('MZ'), zipOf([{ path: 'a' }])]),
    'zip',
    'invalid_archive',
    /before its beginning/,
  ],
];

for (const [what, bytes, format, code, sentence] of attacks)
  test(`${what} is refused`, async () => refused(bytes, format, code, sentence));
