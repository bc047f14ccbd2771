/**
 * What was read of a program that goes on in a guest, kept in the machine's directory: the guest ends, and what the
 * program wrote is asked for afterwards, as it is of a container's. The first and the last MiB, like everywhere.
 *
 *     execs/<id>    facts as JSON, filled up with spaces to one page; the first part; the last part
 */
import { mkdir, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { programEnd } from '#contract/schemas/machines.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { Terminal } from '../../../driver.ts';
import { closedBy } from '../../terminal.ts';

const pageBytes = 4096;
const partBytes = 1 << 20;
const offset = z.int().nonnegative();

const facts = z.strictObject({
  total: offset,
  /** Length of the first part, which begins with byte 0. */
  head: offset.max(partBytes),
  /** The last part is [tailFrom, total). */
  tailFrom: offset,
  /** null: nobody saw it. */
  end: programEnd.nullable(),
});

const pathOf = (directory: string, id: string): string => join(directory, 'execs', id);

/** Writes down what the terminal holds, in place of what was written before. */
export async function saveOutput(directory: string, id: string, terminal: Terminal): Promise<void> {
  const { total } = terminal.read(0, 0);
  const first = terminal.read(0, partBytes);
  const head = first.from === 0 ? first.bytes : new Uint8Array();
  const last = terminal.read(Math.max(head.length, total - partBytes), partBytes);
  const known = facts.parse({ total, head: head.length, tailFrom: last.from, end: terminal.end ?? null });
  const page = Buffer.alloc(pageBytes, ' ');
  page.write(JSON.stringify(known));
  const path = pathOf(directory, id);
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFileAtomic(path, Buffer.concat([page, head, last.bytes]));
}

/** A terminal of this process that writes a file down. */
interface Writer {
  /** It does not, from now on. */
  forget(): Promise<void>;
  /** What it has begun to write is there. */
  settled(): Promise<void>;
}

/** By the path of the file. */
const writers = new Map<string, Set<Writer>>();
const writersOf = (path: string): Writer[] => [...(writers.get(path) ?? [])];

/** Nothing happens if nothing is kept. Terminals that are open, or were just now, do not write it down again. */
export async function dropOutput(directory: string, id: string): Promise<void> {
  const path = pathOf(directory, id);
  await Promise.all(writersOf(path).map((writer) => writer.forget()));
  await rm(path, { force: true });
}

/** A terminal of what was written down; `gone` when that is nothing. The program has ended, as its machine has. */
export async function openOutput(directory: string, id: string): Promise<Terminal> {
  const path = pathOf(directory, id);
  await Promise.all(writersOf(path).map((writer) => writer.settled()));
  const bytes = await readAll(path);
  if (!bytes)
    throw new CarrelError(
      'gone',
      `the output of ${id} is gone: it was in the machine, and nobody had read it`,
    );
  const { total, head, tailFrom, end } = facts.parse(JSON.parse(bytes.toString('utf8', 0, pageBytes)));
  return {
    read(from, maxBytes = partBytes) {
      if (from < head) {
        const to = Math.min(head, from + maxBytes);
        return { total, from, bytes: bytes.subarray(pageBytes + from, pageBytes + to) };
      }
      const start = Math.min(total, Math.max(from, tailFrom));
      const at = pageBytes + head + start - tailFrom;
      return { total, from: start, bytes: bytes.subarray(at, at + Math.min(maxBytes, total - start)) };
    },
    watch: () => () => undefined,
    write: () => Promise.reject(new CarrelError('gone', 'the program has ended')),
    resize: () => Promise.resolve(),
    end: end ?? { kind: 'killed', reason: 'cancelled' },
    close: () => undefined,
  };
}

async function readAll(path: string): Promise<Buffer | undefined> {
  try {
    await using file = await open(path, 'r');
    return await file.readFile();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The same terminal; what it holds is written down when the program ends, and when it is closed. */
export function saving(directory: string, id: string, terminal: Terminal): Terminal {
  const path = pathOf(directory, id);
  let saved = Promise.resolve();
  let wanted = true;
  const own: Writer = {
    async forget() {
      wanted = false;
      await saved;
    },
    settled: () => saved,
  };
  const others = writers.get(path) ?? new Set();
  writers.set(path, others.add(own));
  const save = (): void => {
    // output that cannot be kept is as lost as before; a directory that is gone needs none
    saved = saved
      .then(() => (wanted ? saveOutput(directory, id, terminal) : undefined))
      .catch(() => undefined);
  };
  const leave = (): void => {
    others.delete(own);
    if (others.size === 0 && writers.get(path) === others) writers.delete(path);
  };
  const stop = terminal.watch(() => {
    if (terminal.end !== undefined) save();
  });
  return closedBy(terminal, () => {
    stop();
    save();
    void saved.then(leave);
    terminal.close();
  });
}
