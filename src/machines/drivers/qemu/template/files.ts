/**
 * Parked machines on disk:
 *
 *     templates/<key>/disk.qcow2     layer over the image, with what the boot wrote
 *     templates/<key>/ram            its memory, with holes
 *     templates/<key>/state          processors and devices, as QEMU migrates them
 *     templates/<key>/template.json  what it is; written last: without it there is no template
 *     templates/making-<id>/         one being made, or left behind by a crash
 *
 * Nothing in a template changes once it has its name. A machine made of one holds its disk by a hard link, so
 * a template may be removed at any time.
 */
import { readdirSync } from 'node:fs';
import { chmod, chown, mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { removeTree } from '#host/trees.ts';
import { keyPattern } from './key.ts';

const record = z.strictObject({
  format: z.literal(1),
  key: z.string().regex(keyPattern),
  image: z.string(),
  /** Length of the file `ram`. */
  ramBytes: z.int().positive(),
  /** Length of the disk as the machine saw it. */
  diskBytes: z.int().positive(),
  /** What its files hold of the host's disk. */
  bytes: z.int().nonnegative(),
  createdAt: z.iso.datetime(),
});
export type TemplateRecord = z.output<typeof record>;

export interface TemplateFiles extends TemplateRecord {
  readonly directory: string;
  readonly disk: string;
  readonly ram: string;
  readonly state: string;
}

const contents = ['disk.qcow2', 'ram', 'state'] as const;
const recordName = 'template.json';
const makingPrefix = 'making-';

const filesOf = (directory: string): Pick<TemplateFiles, 'directory' | 'disk' | 'ram' | 'state'> => ({
  directory,
  disk: join(directory, 'disk.qcow2'),
  ram: join(directory, 'ram'),
  state: join(directory, 'state'),
});

export class TemplateStore {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** The template, whole; undefined when there is none. One whose record cannot be read is none. */
  async find(key: string): Promise<TemplateFiles | undefined> {
    const directory = join(this.directory, key);
    let text: string;
    try {
      text = await readFile(join(directory, recordName), 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    const parsed = record.safeParse(parseJson(text));
    return parsed.success && parsed.data.key === key ? { ...parsed.data, ...filesOf(directory) } : undefined;
  }

  /** An empty place for a template that is being made by `id`; what an earlier try left there goes. */
  async begin(id: string): Promise<ReturnType<typeof filesOf>> {
    const directory = join(this.directory, `${makingPrefix}${id}`);
    await removeTree(directory);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    return filesOf(directory);
  }

  /** Removes what `id` has made of a template so far; nothing happens if that is nothing. */
  async abandon(id: string): Promise<void> {
    await removeTree(join(this.directory, `${makingPrefix}${id}`));
  }

  /** Gives what was made its name; an older template of that name goes. Durable when it returns. */
  async publish(
    id: string,
    facts: Omit<TemplateRecord, 'format' | 'bytes' | 'createdAt'>,
  ): Promise<TemplateFiles> {
    const directory = join(this.directory, `${makingPrefix}${id}`);
    let bytes = 0;
    for (const name of contents) {
      const path = join(directory, name);
      await chown(path, 0, 0); // whoever made it has no part in it any more
      await chmod(path, name === 'disk.qcow2' ? 0o444 : 0o400);
      bytes += (await stat(path)).blocks * 512;
      await settle(path);
    }
    const made: TemplateRecord = { format: 1, ...facts, bytes, createdAt: new Date().toISOString() };
    const place = join(this.directory, facts.key);
    await this.remove(facts.key);
    await rename(directory, place);
    await writeFileAtomic(join(place, recordName), `${JSON.stringify(record.parse(made), null, 2)}\n`);
    await settle(this.directory);
    return { ...made, ...filesOf(place) };
  }

  /** When it was used last: the time of its record, which costs nothing to set. */
  async touch(key: string): Promise<void> {
    const now = new Date();
    await utimes(join(this.directory, key, recordName), now, now).catch(ignoreMissing);
  }

  async lastUsed(key: string): Promise<Date | undefined> {
    const found = await stat(join(this.directory, key, recordName)).catch(ignoreMissing);
    return found?.mtime;
  }

  /** First the record, so that a template is never found half gone. Nothing happens when there is none. */
  async remove(key: string): Promise<void> {
    if (!keyPattern.test(key))
      throw new CarrelError('internal', `${JSON.stringify(key)} is no template's key`);
    const directory = join(this.directory, key);
    await rm(join(directory, recordName), { force: true });
    await removeTree(directory);
  }

  /** Keys of whole templates. */
  async keys(): Promise<string[]> {
    const found: string[] = [];
    for (const name of await this.#names())
      if (keyPattern.test(name) && (await this.find(name))) found.push(name);
    return found;
  }

  /** Removes what is no template and is not being made by one of `making`; gives how much that was. */
  async sweep(making: ReadonlySet<string>): Promise<number> {
    let swept = 0;
    for (const name of await this.#names()) {
      if (name.startsWith(makingPrefix) && making.has(name.slice(makingPrefix.length))) continue;
      if (keyPattern.test(name) && (await this.find(name))) continue;
      await removeTree(join(this.directory, name));
      swept += 1;
    }
    return swept;
  }

  async #names(): Promise<string[]> {
    return readdir(this.directory).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return [];
      throw error;
    });
  }
}

/** Ids of those that make templates here: their directories are traces of them. */
export function makersIn(directory: string): string[] {
  try {
    return readdirSync(directory).flatMap((name) =>
      name.startsWith(makingPrefix) ? name.slice(makingPrefix.length) : [],
    );
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function ignoreMissing(error: unknown): undefined {
  if (errnoOf(error) !== 'ENOENT') throw error;
}

async function settle(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}
