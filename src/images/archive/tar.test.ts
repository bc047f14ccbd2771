import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { gather, inPieces, scratch, tarOf } from '../testing.ts';
import { Meter, imageLimits, uploadLimits } from './limits.ts';
import { type TarEntry, readTar } from './tar.ts';
import { formatPax, parsePax } from './tarheader.ts';
import { type TarInput, writeTar } from './tarwriter.ts';

type Read = Omit<TarEntry, 'data'> & { readonly body: Buffer };

async function readAll(bytes: Uint8Array, piece = 4096): Promise<Read[]> {
  const entries: Read[] = [];
  for await (const { data, ...entry } of readTar(inPieces(bytes, piece), new Meter(imageLimits)))
    entries.push({ ...entry, body: await gather(data) });
  return entries;
}

const part = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 120 })
  .map((text) => text.replaceAll(/[/\0]/g, '_'));
const path = fc
  .array(part, { minLength: 1, maxLength: 4 })
  .map((parts) => parts.join('/'))
  .filter((text) => text.isWellFormed());

const input: fc.Arbitrary<TarInput> = fc.oneof(
  fc
    .record({
      path,
      mode: fc.integer({ min: 0, max: 0o7777 }),
      uid: fc.nat(4_000_000),
      body: fc.uint8Array({ maxLength: 1500 }),
    })
    .map(({ path, mode, uid, body }) => ({
      path,
      mode,
      uid,
      kind: 'file' as const,
      size: body.length,
      data: [body],
    })),
  fc.record({ path, kind: fc.constant('directory' as const), gid: fc.nat(3_000_000) }),
  fc.record({ path, kind: fc.constantFrom('symlink' as const, 'hardlink' as const), link: path }),
);

test('what is written is read again, in chunks of any size', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(input, { maxLength: 6 }),
      fc.integer({ min: 1, max: 2000 }),
      async (inputs, piece) => {
        const read = await readAll(await gather(writeTar(inputs)), piece);
        assert.equal(read.length, inputs.length);
        for (const [index, { kind, link = '', uid = 0, gid = 0, ...wanted }] of inputs.entries()) {
          const entry = read[index];
          assert.ok(entry);
          assert.equal(entry.path, kind === 'directory' ? `${wanted.path}/` : wanted.path);
          assert.deepEqual([entry.kind, entry.link, entry.uid, entry.gid], [kind, link, uid, gid]);
          const data: Uint8Array[] = [];
          for await (const chunk of wanted.data ?? []) data.push(chunk);
          assert.deepEqual(entry.body, Buffer.concat(data));
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('damaged archives are read or refused, never anything else', async () => {
  const sample = await gather(
    writeTar([
      { path: 'a', kind: 'file', size: 3, data: [Buffer.from('abc')] },
      { path: 'ü'.repeat(90), kind: 'file', size: 700, data: [Buffer.alloc(700, 7)] },
      { path: 'd', kind: 'directory' },
      { path: 'l', kind: 'symlink', link: 'x'.repeat(150) },
    ]),
  );
  const mutation = fc.record({ at: fc.nat(sample.length - 1), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(
      fc.array(mutation, { minLength: 1, maxLength: 8 }),
      fc.nat(sample.length),
      async (changes, cut) => {
        const bytes = Uint8Array.from(sample);
        for (const { at, byte } of changes) bytes[at] = byte;
        try {
          await readAll(cut % 3 === 0 ? bytes.subarray(0, cut) : bytes);
        } catch (error) {
          assert.ok(
            isCarrelError(error, 'invalid_archive') || isCarrelError(error, 'too_large'),
            String(error),
          );
        }
      },
    ),
    { numRuns: 400 },
  );
});

test('random headers with a right checksum are read or refused, never anything else', async () => {
  const patch = fc
    .record({ at: fc.nat(511), bytes: fc.uint8Array({ minLength: 1, maxLength: 12 }) })
    .filter(({ at, bytes }) => at + bytes.length <= 512);
  await fc.assert(
    fc.asyncProperty(
      fc.array(patch, { maxLength: 5 }),
      fc.uint8Array({ maxLength: 1100 }),
      async (patches, body) => {
        try {
          await readAll(
            tarOf({ path: 'a', body, patch: patches }, { path: 'b', flag: 'x', body }, { path: 'c' }),
          );
        } catch (error) {
          assert.ok(
            isCarrelError(error, 'invalid_archive') || isCarrelError(error, 'too_large'),
            String(error),
          );
        }
      },
    ),
    { numRuns: 400 },
  );
});

for (const format of ['ustar', 'gnu', 'pax', 'v7'])
  test(`an archive by GNU tar in its ${format} format is read`, async () => {
    await using temporary = await scratch();
    const { directory } = temporary;
    const long = format === 'gnu' || format === 'pax' ? 'long'.repeat(40) : 'short';
    await mkdir(join(directory, 'in', long), { recursive: true });
    await writeFile(join(directory, 'in', long, 'file.txt'), 'hello\n');
    await writeFile(join(directory, 'in/empty'), '');
    await symlink(long, join(directory, 'in/link'));
    execFileSync('tar', [
      `--format=${format}`,
      '-C',
      join(directory, 'in'),
      '-cf',
      join(directory, 'out.tar'),
      '.',
    ]);
    const bytes = execFileSync('cat', [join(directory, 'out.tar')]);
    const byPath = new Map((await readAll(bytes)).map((entry) => [entry.path, entry]));
    assert.equal(byPath.get(`./${long}/file.txt`)?.body.toString(), 'hello\n');
    assert.equal(byPath.get(`./${long}/`)?.kind, 'directory');
    assert.equal(byPath.get('./link')?.link, long);
  });

test('GNU tar reads what we write', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  const name = `${'lang'.repeat(50)}/ß.txt`;
  const archive = await gather(
    writeTar([
      { path: name, kind: 'file', mode: 0o640, size: 2, data: [Buffer.from('ok')] },
      { path: 'link', kind: 'symlink', link: name },
    ]),
  );
  await writeFile(join(directory, 'x.tar'), archive);
  execFileSync('tar', ['-C', directory, '-xf', join(directory, 'x.tar')]);
  assert.equal(execFileSync('cat', [join(directory, 'link')]).toString(), 'ok');
});

test('data that is not read is passed over', async () => {
  const bytes = tarOf({ path: 'a', body: Buffer.alloc(5000, 1) }, { path: 'b', body: 'B' });
  const paths: string[] = [];
  for await (const entry of readTar(inPieces(bytes, 700), new Meter(uploadLimits))) {
    paths.push(entry.path);
    for await (const _ of entry.data) break;
  }
  assert.deepEqual(paths, ['a', 'b']);
});

test('a file that changes while it is packed is an error, not a damaged archive', async () => {
  const grown = writeTar([{ path: 'a', kind: 'file', size: 2, data: [Buffer.from('abc')] }]);
  await assert.rejects(gather(grown), (error) => isCarrelError(error, 'wrong_state'));
});

test('pax records count their own digits', () => {
  fc.assert(
    fc.property(
      fc.string({ maxLength: 1200 }).filter((text) => text.isWellFormed()),
      (value) => {
        assert.equal(parsePax(formatPax('path', value)).get('path'), value);
      },
    ),
  );
});
