/**
 * The memory of templates, held ready: one sealed file without a name per template, which all its clones map and
 * copy on write. Made at the first clone from the file on disk (some 30 ms), kept while it is of use. A clone
 * has its own descriptor, so letting go of one here costs no clone its memory.
 */
import { open } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';
import { createMemfd, sealMemfd } from '#host/memfd.ts';
import { copySparse } from '#host/sparse.ts';
import type { TemplateFiles } from './files.ts';

/** Templates held at once; the one that was not used for longest goes first. */
const maxHeld = 8;
/** A template that nobody wants for so long gives its memory back. */
const idleMs = 15 * 60_000;

interface Held {
  readonly memory: Promise<Fd>;
  users: number;
  usedAt: number;
}

export interface TemplateMemory extends Disposable {
  /** Calls `use` with a descriptor of the template's memory, which stays ours. */
  with<T>(
    template: Pick<TemplateFiles, 'key' | 'ram' | 'ramBytes'>,
    use: (fd: number) => Promise<T>,
  ): Promise<T>;
  /** Lets go of it, as soon as nobody uses it. */
  drop(key: string): void;
}

export function openTemplateMemory({ now = Date.now } = {}): TemplateMemory {
  const held = new Map<string, Held>();
  const forget = (key: string, entry: Held): void => {
    if (held.get(key) === entry) held.delete(key);
    const close = (): void => void entry.memory.then((memory) => memory.close()).catch(() => undefined);
    if (entry.users === 0) close();
  };
  const prune = (): void => {
    const idle = [...held].filter(([, { users }]) => users === 0).sort(([, a], [, b]) => a.usedAt - b.usedAt);
    for (const [key, entry] of idle)
      if (held.size > maxHeld || now() - entry.usedAt > idleMs) forget(key, entry);
  };
  const timer = setInterval(prune, 60_000);
  timer.unref();
  return {
    async with(template, use) {
      let entry = held.get(template.key);
      if (!entry) {
        entry = { memory: load(template), users: 0, usedAt: now() };
        held.set(template.key, entry);
      }
      const mine = entry;
      mine.users += 1;
      try {
        const { fd } = await mine.memory.catch((error: unknown) => {
          if (held.get(template.key) === mine) held.delete(template.key); // the next one tries again
          throw error;
        });
        return await use(fd);
      } finally {
        mine.users -= 1;
        mine.usedAt = now();
        if (held.get(template.key) === mine) prune();
        else if (mine.users === 0) forget(template.key, mine); // dropped meanwhile
      }
    },
    drop(key) {
      const entry = held.get(key);
      if (entry) forget(key, entry);
    },
    [Symbol.dispose]() {
      clearInterval(timer);
      for (const [key, entry] of held) forget(key, entry);
    },
  };
}

async function load({ key, ram, ramBytes }: Pick<TemplateFiles, 'key' | 'ram' | 'ramBytes'>): Promise<Fd> {
  await using file = await open(ram, 'r');
  const { size } = await file.stat();
  if (size !== ramBytes)
    throw new CarrelError(
      'internal',
      `the memory of template ${key} has ${size} bytes instead of ${ramBytes}`,
    );
  const memory = createMemfd(`carrel-template-${key.slice(0, 12)}`, ramBytes);
  try {
    await copySparse(file.fd, memory.fd, ramBytes);
    sealMemfd(memory);
    return memory;
  } catch (error) {
    memory.close();
    throw error;
  }
}
