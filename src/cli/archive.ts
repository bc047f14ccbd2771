/** Files of this machine as an upload, and a download as files. */
import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, mkdir, opendir } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { CarrelError } from '#base/errors.ts';
import { readArchive } from '#images/archive/read.ts';
import { writeTar, type TarInput } from '#images/archive/tarwriter.ts';

/** What nobody means to hand in. */
const ignored = new Set(['.git', '.svn', '__pycache__', 'node_modules', '.DS_Store', '.vscode', '.idea']);
const maxFiles = 5000;

async function* contentOf(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of createReadStream(path)) if (Buffer.isBuffer(chunk)) yield chunk;
}

/**
 * The files that `paths` name, folders with their content, each under its path below `base`. A file outside
 * `base` goes in under its own name. Links and devices are refused by name.
 */
export async function collectFiles(paths: readonly string[], base = process.cwd()): Promise<TarInput[]> {
  const found = new Map<string, TarInput>();
  const visit = async (full: string, named: boolean): Promise<void> => {
    const stats = await lstat(full);
    const inside = relative(base, full);
    const path = inside === '' || inside.startsWith('..') ? (full.split('/').at(-1) ?? full) : inside;
    if (stats.isDirectory()) {
      for await (const { name } of await opendir(full))
        if (!ignored.has(name)) await visit(join(full, name), false);
    } else if (stats.isFile()) {
      if (found.size >= maxFiles) throw new CarrelError('too_large', `more than ${maxFiles} files`);
      const executable = (stats.mode & 0o100) !== 0;
      found.set(path, {
        path,
        kind: 'file',
        mode: executable ? 0o755 : 0o644,
        size: stats.size,
        data: contentOf(full),
      });
    } else if (named || !stats.isSocket()) {
      throw new CarrelError('invalid_request', `${full} is neither a file nor a folder`, {
        hint: stats.isSymbolicLink() ? 'name what the link points to' : 'leave it out',
      });
    }
  };
  for (const path of paths) await visit(resolve(base, path), true);
  if (found.size === 0) throw new CarrelError('invalid_request', 'there are no files in what you named');
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Packs files into a tar archive, in memory: uploads are limited to a few MiB by the server. */
export async function pack(files: readonly TarInput[]): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of writeTar(files)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export type Download = Uint8Array | ReadableStream<Uint8Array>;

export async function* chunksOf(download: Download): AsyncGenerator<Uint8Array, void, undefined> {
  if (download instanceof Uint8Array) yield download;
  else for await (const chunk of download) yield chunk;
}

/** Unpacks a tar archive into a folder that is not there yet, or empty. Returns the paths written. */
export async function unpack(download: Download, directory: string): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  for await (const { name } of await opendir(directory))
    throw new CarrelError('wrong_state', `${directory} is not empty (${name})`, {
      hint: 'name another folder',
    });
  const written: string[] = [];
  for await (const { path, kind, mode, data } of readArchive(chunksOf(download), 'tar')) {
    const full = join(directory, path);
    await mkdir(kind === 'directory' ? full : dirname(full), { recursive: true });
    if (kind === 'directory') continue;
    await pipeline(Readable.from(data), createWriteStream(full, { flags: 'wx', mode: mode & 0o755 }));
    written.push(path);
  }
  return written;
}

/** The files of a tar archive, each in memory. */
export async function* filesOf(
  download: Download,
): AsyncGenerator<{ readonly path: string; readonly bytes: Uint8Array }, void, undefined> {
  for await (const { path, kind, data } of readArchive(chunksOf(download), 'tar')) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of data) chunks.push(chunk);
    if (kind === 'file') yield { path, bytes: Buffer.concat(chunks) };
  }
}
