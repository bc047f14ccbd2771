import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { isoImage } from './iso9660.ts';

const files = [
  { name: 'meta-data', mode: 0o400, data: 'one' },
  { name: 'a much longer name than eight and three', data: 'x'.repeat(5000) },
  { name: 'empty', data: '' },
] as const;

const needs = (program: string): string | false => (existsSync(program) ? false : `needs ${program}`);

function withImage<T>(use: (path: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-iso-'));
  try {
    const path = join(directory, 'image.iso');
    writeFileSync(path, isoImage('cidata', files));
    return use(path);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Found {
  readonly name: string;
  readonly mode: number;
  readonly data: string;
}

/** A reader from the standard alone: the descriptor, the root's records, their entries NM and PX. */
function readIso(image: Buffer): { label: string; sectors: number; found: Found[] } {
  const sector = (number: number): Buffer => image.subarray(number * 2048, (number + 1) * 2048);
  const volume = sector(16);
  assert.equal(volume.toString('latin1', 0, 7), '\x01CD001\x01');
  assert.equal(sector(17).toString('latin1', 0, 7), '\xffCD001\x01');
  assert.equal(volume.readUInt32LE(80), volume.readUInt32BE(84));
  const root = sector(volume.readUInt32LE(156 + 2));
  const found: Found[] = [];
  const plainNames: string[] = [];
  for (let at = 0; root[at];) {
    const record = root.subarray(at, at + (root[at] ?? 0));
    at += record.length;
    assert.equal(record.length % 2, 0);
    const named = record[32] ?? 0;
    const plain = record.toString('latin1', 33, 33 + named);
    const [start, length] = [record.readUInt32LE(2), record.readUInt32LE(10)];
    assert.deepEqual([start, length], [record.readUInt32BE(6), record.readUInt32BE(14)]);
    const entries = new Map<string, Buffer>();
    for (let use = 33 + named + ((named + 1) % 2); use + 4 <= record.length;) {
      const bytes = record[use + 2] ?? 0;
      assert.ok(bytes >= 4 && use + bytes <= record.length);
      entries.set(record.toString('latin1', use, use + 2), record.subarray(use + 4, use + bytes));
      use += bytes;
    }
    const mode = entries.get('PX')?.readUInt32LE(0) ?? 0;
    if (plain === '\0' || plain === '\x01') {
      assert.equal(mode & 0o170000, 0o040000);
      assert.equal(entries.has('ER'), plain === '\0');
      continue;
    }
    assert.match(plain, /^[A-Z0-9_]{1,8}\.[A-Z0-9_]{0,3};1$/);
    plainNames.push(plain);
    const data = image.toString('utf8', start * 2048, start * 2048 + length);
    found.push({ name: entries.get('NM')?.toString('utf8', 1) ?? '', mode: mode & 0o7777, data });
  }
  assert.deepEqual(plainNames, [...new Set(plainNames)].toSorted());
  return {
    label: volume.toString('latin1', 40, 72).trimEnd(),
    sectors: volume.readUInt32LE(80),
    found,
  };
}

test('what is written is read again, whatever the names and contents', () => {
  const name = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
    .filter((each) => !/[/\0]/.test(each) && each !== '.' && each !== '..');
  const file = fc.record({
    name,
    mode: fc.integer({ min: 0, max: 0o7777 }),
    data: fc.string({ maxLength: 5000, size: 'max' }),
  });
  fc.assert(
    fc.property(fc.uniqueArray(file, { maxLength: 8, selector: (each) => each.name }), (given) => {
      const image = isoImage('cidata', given);
      const { label, sectors, found } = readIso(image);
      assert.deepEqual([label, sectors * 2048], ['cidata', image.length]);
      // a name may be half of a character: on a disk it is bytes
      assert.deepEqual(
        found,
        given.map((each) => ({ ...each, name: Buffer.from(each.name).toString() })),
      );
      assert.deepEqual(isoImage('cidata', given), image);
    }),
    { numRuns: 100 },
  );
});

const refused = (label: string, names: readonly string[]): void =>
  assert.throws(
    () =>
      isoImage(
        label,
        names.map((name) => ({ name, data: '' })),
      ),
    (error) => isCarrelError(error, 'invalid_request'),
  );

test('a label or a name that cannot be is refused, and so are more than a directory holds', () => {
  for (const label of ['', 'a b', 'x'.repeat(33)]) refused(label, []);
  for (const name of ['', '.', '..', 'a/b', 'a\0b', 'x'.repeat(200)]) refused('cidata', [name]);
  refused('cidata', ['twice', 'twice']);
  refused(
    'cidata',
    Array.from({ length: 40 }, (_, index) => `file-${index}`),
  );
});

test('blkid sees the label, as cloud-init does', { skip: needs('/usr/sbin/blkid') }, () => {
  const said = withImage((path) =>
    execFileSync('/usr/sbin/blkid', ['-p', '-o', 'export', path], { encoding: 'utf8' }),
  );
  assert.match(said, /^LABEL=cidata$/m);
  assert.match(said, /^TYPE=iso9660$/m);
});

test('the boot loader of disks reads names and contents', { skip: needs('/usr/bin/grub-fstest') }, () => {
  withImage((path) => {
    const fstest = (...argv: string[]): string =>
      execFileSync('/usr/bin/grub-fstest', [path, ...argv], { encoding: 'utf8' });
    assert.deepEqual(fstest('ls', '(loop0)/').trim(), files.map(({ name }) => name).join(' '));
    for (const { name, data } of files) assert.equal(fstest('cat', `(loop0)/${name}`), data);
  });
});

test('isoinfo reads names, modes and contents', { skip: needs('/usr/bin/isoinfo') }, () => {
  withImage((path) => {
    const isoinfo = (...argv: string[]): string =>
      execFileSync('/usr/bin/isoinfo', ['-R', '-i', path, ...argv], { encoding: 'utf8' });
    const listed = isoinfo('-l').split('\n');
    for (const { name, data } of files) {
      assert.ok(
        listed.some((line) => line.split(']').at(-1)?.trim() === name),
        name,
      );
      assert.equal(isoinfo('-x', `/${name}`), data);
    }
    assert.ok(listed.some((line) => /^-r-{8} .*\bmeta-data\b/.test(line)));
  });
});
