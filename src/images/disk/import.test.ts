/** Disks from outside, honest and not, made by the real qemu-img. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import {
  chmod,
  copyFile,
  mkdir,
  open,
  readFile,
  readdir,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ErrorCode, isCarrelError } from '#base/errors.ts';
import { gather, inPieces, scratch } from '../testing.ts';
import { openImages } from '../store.ts';
import { runCommand } from '../command.ts';
import { convertDisk } from './convert.ts';
import { importDisk } from './import.ts';

const skip = existsSync('/usr/bin/qemu-img') ? false : 'qemu-img is not installed';
const MiB = 2 ** 20;

const qemuImg = (...args: string[]): string => execFileSync('qemu-img', args).toString();

/** 8 MiB with something at both ends. */
async function content(path: string): Promise<Buffer> {
  const raw = Buffer.alloc(8 * MiB);
  raw.write('begin', 0);
  raw.write('end', raw.length - 512);
  await writeFile(path, raw);
  return raw;
}

async function patch(path: string, at: number, bytes: readonly number[]): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Uint8Array.from(bytes), 0, bytes.length, at);
  await file.close();
}

test('a disk comes in as qcow2 or raw and goes out as it was, standing alone', { skip }, async () => {
  await using temporary = await scratch();
  const at = (name: string): string => join(temporary.directory, name);
  const raw = await content(at('raw'));
  for (const options of [[], ['-c'], ['-o', 'compat=0.10'], ['-o', 'cluster_size=4096']])
    for (const format of ['qcow2', 'raw'] as const) {
      const images = await openImages({ cache: at(`cache-${format}-${options.join('')}`) });
      qemuImg('convert', '-f', 'raw', '-O', 'qcow2', ...options, at('raw'), at('qcow2'));
      const bytes = await readFile(at(format));
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const image = await images.import({ name: 'd', format, source: inPieces(bytes, 100_001), sha256 });
      assert.equal(image.kind, 'disk');
      assert.deepEqual(image.disk, { virtualBytes: 8 * MiB, boot: null, agent: false });
      assert.ok((await gather(await images.export('d', 'raw'))).equals(raw));
      await writeFile(at('exported'), await gather(await images.export('d', 'qcow2')));
      assert.doesNotMatch(qemuImg('info', '-f', 'qcow2', at('exported')), /backing/);
      await images.verify('d');
      assert.deepEqual(await readdir(images.layout.tmp), []);
      await assert.rejects(images.export('d', 'tar'), (error) => isCarrelError(error, 'not_found'));
      await images.remove('d');
    }
});

const luks = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';

interface Hostile {
  readonly what: string;
  readonly code: ErrorCode;
  readonly sentence: RegExp;
  readonly format?: 'raw';
  /** Makes the file. */
  readonly make: (path: string) => unknown;
}

const hostile: readonly Hostile[] = [
  {
    what: 'a file of this host below it',
    code: 'validation_failed',
    sentence: /backing file/,
    make: (path) => qemuImg('create', '-f', 'qcow2', '-u', '-b', '/etc/passwd', '-F', 'raw', path, '1M'),
  },
  {
    what: 'a file of this host as its data',
    code: 'validation_failed',
    sentence: /another file/,
    make: (path) =>
      qemuImg('create', '-f', 'qcow2', '-o', `data_file=${path}.data,data_file_raw=on`, path, '1M'),
  },
  {
    what: 'a size of 60 TiB in 200 KiB',
    code: 'too_large',
    sentence: /larger than/,
    make: (path) => qemuImg('create', '-f', 'qcow2', path, '60T'),
  },
  {
    what: 'a first table of 4 billion entries',
    code: 'validation_failed',
    sentence: /first table/,
    async make(path) {
      qemuImg('create', '-f', 'qcow2', path, '1M');
      await patch(path, 36, [0xff, 0xff, 0xff, 0xff]);
    },
  },
  {
    what: 'its end cut off',
    code: 'validation_failed',
    sentence: /cut off/,
    async make(path) {
      qemuImg('create', '-f', 'qcow2', path, '1M');
      await truncate(path, 70_000);
    },
  },
  {
    what: 'a key that only its maker has',
    code: 'validation_failed',
    sentence: /encrypted/,
    make: (path) =>
      qemuImg(...'create -f qcow2 --object secret,id=s,data=abc -o'.split(' '), luks, path, '1M'),
  },
  {
    what: 'a second table between its clusters',
    code: 'validation_failed',
    sentence: /cannot be read/,
    async make(path) {
      const raw = `${path}.raw`;
      await content(raw);
      qemuImg('convert', '-f', 'raw', '-O', 'qcow2', raw, path);
      const head = await readFile(path);
      await patch(path, Number(head.readBigUInt64BE(40)), [0x80, 0, 0, 0, 0, 3, 2, 0]);
    },
  },
  {
    what: 'more in it than it may hold',
    code: 'too_large',
    sentence: /holds more than|larger than/,
    async make(path) {
      // All clusters are one: 48 MiB out of some KiB, each the same packed megabyte of ones.
      const raw = `${path}.raw`;
      await writeFile(raw, Buffer.alloc(48 * MiB, 1));
      qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, path);
      assert.ok((await stat(path)).size < 4 * MiB);
    },
  },
  {
    what: 'half a sector at its end',
    format: 'raw',
    code: 'validation_failed',
    sentence: /whole sectors/,
    make: (path) => writeFile(path, Buffer.alloc(1000)),
  },
  {
    what: 'a header of qcow2, stated as raw,',
    format: 'raw',
    code: 'too_large',
    sentence: /holds more/,
    make: (path) => writeFile(path, Buffer.alloc(20 * MiB, 7)),
  },
];

for (const { what, code, sentence, format = 'qcow2', make } of hostile)
  test(`a disk with ${what} is refused, and nothing of it stays`, { skip }, async () => {
    await using temporary = await scratch();
    const path = join(temporary.directory, 'disk');
    await make(path);
    const { layout } = await openImages({ cache: join(temporary.directory, 'cache') });
    const described = { name: 'd', aliases: [], description: '' };
    const limits = { fileBytes: 64 * MiB, storedBytes: 16 * MiB, virtualBytes: 1024 * MiB };
    const source = inPieces(await readFile(path), 65_536);
    await assert.rejects(
      importDisk(layout, { described, format, source, sha256: undefined, limits }),
      (error) => isCarrelError(error, code) && sentence.test(error.message),
    );
    assert.deepEqual(await readdir(layout.tmp), []);
    assert.deepEqual(await readdir(layout.images), []);
  });

test('a qcow2 file stated as raw is a disk with those very bytes', { skip }, async () => {
  await using temporary = await scratch();
  const path = join(temporary.directory, 'evil');
  qemuImg('create', '-f', 'qcow2', '-u', '-b', '/etc/passwd', '-F', 'raw', path, '1M');
  const bytes = await readFile(path);
  const padded = Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
  const images = await openImages({ cache: join(temporary.directory, 'cache') });
  await images.import({ name: 'd', format: 'raw', source: inPieces(padded, 65_536) });
  assert.ok((await gather(await images.export('d', 'raw'))).equals(padded));
});

test('a wrong sha256 is noticed before anything is read of a disk or an archive', { skip }, async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: join(temporary.directory, 'cache') });
  for (const format of ['qcow2', 'raw', 'tar', 'tar.gz'] as const)
    await assert.rejects(
      images.import({
        name: 'd',
        format,
        source: inPieces(Buffer.from('no disk'), 3),
        sha256: 'a'.repeat(64),
      }),
      (error) => isCarrelError(error, 'validation_failed') && /sha256/.test(error.message),
    );
  assert.deepEqual(await readdir(images.layout.tmp), []);
});

test(
  'who takes qemu-img over gives us no file of the host for its output',
  { skip: process.getuid?.() === 0 ? false : 'needs root' },
  async () => {
    await using temporary = await scratch();
    const at = (name: string): string => join(temporary.directory, name);
    await chmod(temporary.directory, 0o755);
    await mkdir(at('bin'), { mode: 0o755 });
    await writeFile(at('secret'), 'secret', { mode: 0o600 });
    await content(at('raw'));
    const path = process.env['PATH'];
    process.env['PATH'] = `${at('bin')}:${path}`;
    try {
      for (const [place, attack] of [
        ['link', `ln -s ${at('secret')} output`],
        ['fifo', 'mkfifo output'],
        ['two', 'echo x >second; ln second output'],
      ] as const) {
        await writeFile(at('bin/qemu-img'), `#!/bin/sh\nrm -f output\n${attack}\n`);
        await chmod(at('bin/qemu-img'), 0o755);
        await mkdir(at(place), { mode: 0o700 });
        await copyFile(at('raw'), join(at(place), 'input'));
        await assert.rejects(
          convertDisk({
            directory: at(place),
            from: { name: 'input', format: 'raw' },
            to: { name: 'output', format: 'qcow2' },
            fileBytes: MiB,
          }),
          (error) => isCarrelError(error, 'helper_failed') && /something else/.test(error.message),
          place,
        );
      }
      await writeFile(at('bin/qemu-img'), '#!/bin/sh\nhead -c 9000000 /dev/zero | tr "\\0" x\nexit 3\n');
      await assert.rejects(
        runCommand(['qemu-img'], { ms: 60_000 }),
        (error) => isCarrelError(error, 'helper_failed') && error.message.length < 600,
      );
    } finally {
      process.env['PATH'] = path;
    }
    assert.equal((await stat(at('secret'))).mode & 0o777, 0o600);
  },
);

test('a disk of ours that lies on a file of this host is not sent to anybody', { skip }, async () => {
  await using temporary = await scratch();
  const at = (name: string): string => join(temporary.directory, name);
  const raw = await content(at('raw'));
  const images = await openImages({ cache: at('cache') });
  const image = await images.import({
    name: 'd',
    format: 'raw',
    source: inPieces(raw, 100_001),
    sha256: undefined,
  });
  await writeFile(at('secret'), Buffer.alloc(8 * MiB, 's'));
  await rm(image.path);
  qemuImg('create', '-f', 'qcow2', '-b', at('secret'), '-F', 'raw', image.path);
  await assert.rejects(gather(await images.export('d', 'raw')), (error) =>
    isCarrelError(error, 'validation_failed'),
  );
});
