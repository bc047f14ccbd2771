import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import { gather, inPieces, tarOf, zipOf } from '../testing.ts';
import { uploadLimits } from './limits.ts';
import { type ArchiveFormat, readArchive } from './read.ts';

async function names(bytes: Uint8Array, format: ArchiveFormat, limits = uploadLimits): Promise<string[]> {
  const list: string[] = [];
  for await (const { path, kind, mode, data } of readArchive(inPieces(bytes, 10_000), format, limits))
    list.push(`${kind} ${mode.toString(8)} ${path} ${(await gather(data)).toString()}`);
  return list;
}

async function refused(
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

const good = ['directory 755 src ', "file 644 src/a.py print('ä')", 'file 755 run #!/bin/sh'];
const goodTar = tarOf(
  { path: './', flag: '5', mode: 0o755 },
  { path: './src/', flag: '5', mode: 0o755 },
  { path: './src/a.py', body: "print('ä')" },
  { path: 'run', body: '#!/bin/sh', mode: 0o4755 },
);

for (const [format, bytes] of [
  ['tar', goodTar],
  ['tar.gz', gzipSync(goodTar)],
  ['tar.zst', zstdCompressSync(goodTar)],
  [
    'zip',
    zipOf([
      { path: 'src/', unixMode: 0o40755 },
      { path: 'src/a.py', body: "print('ä')" },
      { path: 'run', body: '#!/bin/sh', stored: true, unixMode: 0o104755 },
    ]),
  ],
] as const) {
  test(`files and directories of a ${format} come out, setuid bits do not`, async () => {
    assert.deepEqual(await names(bytes, format), good);
  });

  test(`a ${format} cut off anywhere is refused`, async () => {
    for (let cut = 0; cut < bytes.length - 513; cut += 37)
      await assert.rejects(names(bytes.subarray(0, cut), format), (error) =>
        isCarrelError(error, 'invalid_archive'),
      );
  });

  test(`an upload as ${format} that is too long is refused`, async () => {
    await assert.rejects(names(bytes, format, { ...uploadLimits, packedBytes: 50 }), (error) =>
      isCarrelError(error, 'too_large'),
    );
  });
}

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

test('an archive of a hundred thousand entries is refused early', async () => {
  const entry = tarOf({ path: 'f' }).subarray(0, 512);
  async function* many(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let index = 0; index < 100_000; index += 1) yield entry;
  }
  const entries = readArchive(many(), 'tar', { ...uploadLimits, entries: 3 });
  await assert.rejects(
    async () => {
      for await (const _ of entries);
    },
    (error) => isCarrelError(error),
  );
  const flags = (function* () {
    for (let index = 0; index < 6000; index += 1) yield { path: `f${index}` };
  })();
  await refused(tarOf(...flags), 'tar', 'too_large', /more than 5000 entries/);
  await refused(
    zipOf(Array.from({ length: 5001 }, (_, index) => ({ path: `f${index}` }))),
    'zip',
    'too_large',
    /more than 5000/,
  );
});

test('headers that only extend others count as entries', async () => {
  const bytes = tarOf(...Array.from({ length: 6000 }, () => ({ path: 'L', flag: 'L', body: 'x\0' })));
  await refused(bytes, 'tar', 'too_large', /more than 5000 entries/);
});

test('many files that together are too much are refused at the first one too many', async () => {
  const member = { body: Buffer.alloc(600) };
  const bytes = tarOf({ path: 'a', ...member }, { path: 'b', ...member });
  await assert.rejects(names(bytes, 'tar', { ...uploadLimits, totalBytes: 1000 }), /"b" is too much/);
  const zip = zipOf([
    { path: 'a', ...member },
    { path: 'b', ...member },
  ]);
  await assert.rejects(names(zip, 'zip', { ...uploadLimits, totalBytes: 1000 }), /"b" is too much/);
});

test('a comment that looks like an end does not fool the reader of zips', async () => {
  const inner = zipOf([{ path: 'evil' }]);
  const bytes = zipOf([{ path: 'good', body: 'x' }], { comment: inner.toString('latin1') });
  const list = await names(bytes, 'zip').catch((error: unknown) => String(error));
  assert.ok(typeof list === 'string' || list[0]?.includes('good'), String(list));
});

test('the source is closed when the reader stops early, and nothing stays in the temporary directory', async () => {
  let closed = false;
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* inPieces(goodTar, 512);
    } finally {
      closed = true;
    }
  }
  for await (const _ of readArchive(source(), 'tar')) break;
  assert.ok(closed);
  const before = (await readdir(tmpdir())).filter((name) => /^carrel-[0-9a-f]{24}$/.test(name));
  await refused(goodTar, 'zip', 'invalid_archive', /not a zip/);
  const after = (await readdir(tmpdir())).filter((name) => /^carrel-[0-9a-f]{24}$/.test(name));
  assert.deepEqual(after, before);
});

const sound: readonly (readonly [ArchiveFormat, Buffer])[] = [
  [
    'zip',
    zipOf([
      { path: 'a/b', body: 'hello hello hello' },
      { path: 'c', body: 'x', stored: true },
    ]),
  ],
  ['tar.gz', gzipSync(goodTar)],
  ['tar.zst', zstdCompressSync(goodTar)],
];

for (const [format, sample] of sound)
  test(`a damaged ${format} is read or refused, never anything else`, async () => {
    const mutation = fc.record({ at: fc.nat(sample.length - 1), byte: fc.nat(255) });
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 4 }), async (changes) => {
        const bytes = Buffer.from(sample);
        for (const { at, byte } of changes) bytes[at] = byte;
        try {
          await names(bytes, format);
        } catch (error) {
          assert.ok(
            isCarrelError(error, 'invalid_archive') || isCarrelError(error, 'too_large'),
            String(error),
          );
        }
      }),
      { numRuns: 300 },
    );
  });
