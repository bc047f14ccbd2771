import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { inPieces, tarOf, zipOf } from '../testing.ts';
import { uploadLimits } from './limits.ts';
import { type ArchiveFormat, readArchive } from './read.ts';
import { goodTar, names, refused } from './testing.ts';

const good = ['directory 755 src ', "file 644 src/a.py print('ä')", 'file 755 run #!/bin/sh'];

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
