/**
 * A student's source becomes a guest: by the gcc of the machine's image, in a sandbox, with the kit and copies of the
 * machine's own sources beside it. Nothing that the student wrote is executed, and the compiler that reads it can reach
 * nothing of the host's.
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { listInRoot, readFileInRoot } from '#host/inroot.ts';
import { removeTree } from '#host/trees.ts';
import type { Image } from '#images/layout.ts';
import type { SandboxReport } from '#isolate/sandbox.ts';
import { gcc, guestCommand, isAssembly, kit, kitInside, withoutLibrary } from '#vmm/image/compile.ts';
import type { Mode } from '#vmm/modes/mode.ts';
import type { MachineSpec } from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import { microPaths } from './spec.ts';

const MiB = 2 ** 20;

/** What a source may include: copied beside it. */
const sourceEndings = new Set(['.c', '.h', '.s', '.S', '.inc']);
const mostSources = 200;
const sourceBytes = MiB;
const allSourceBytes = 8 * MiB;
/** With what a compiler tells a debugger; the same as of an imported guest. */
export const guestBytes = 8 * MiB;
/** Of what the compiler says. */
const saidBytes = 4096;

const output = 'carrel-guest';
const limits = {
  cpuMs: 30_000,
  wallMs: 90_000,
  memoryBytes: 512 * MiB,
  outputBytes: 262_144,
  fileBytes: 2 * guestBytes,
};

export const isSource = (file: string): boolean => extname(file) === '.c' || isAssembly(file);

/** Has the image what this needs? */
export const canCompile = ({ kind, path }: Pick<Image, 'kind' | 'path'>): boolean =>
  kind === 'rootfs' && existsSync(join(path, gcc));

/** Copies of the sources in a machine's files, which a guest may be changing: in a directory that nobody else writes to. */
async function copySources(share: string, scratch: string): Promise<{ host: string; guest: string }[]> {
  const { entries } = await listInRoot(share, '/');
  const sources = entries.filter(({ name, type }) => type === 'file' && sourceEndings.has(extname(name)));
  if (sources.length > mostSources)
    throw new CarrelError(
      'too_large',
      `more than ${mostSources} sources would have to be copied to the compiler`,
    );
  const copies: { host: string; guest: string }[] = [];
  let total = 0;
  for (const [index, { name }] of sources.entries()) {
    const bytes = await readFileInRoot(share, name, { maxBytes: sourceBytes });
    total += bytes.length;
    if (total > allSourceBytes)
      throw new CarrelError('too_large', 'the sources are too large together', {
        details: { maxBytes: allSourceBytes },
      });
    const host = join(scratch, `${index}`);
    await writeFile(host, bytes, { mode: 0o644 });
    copies.push({ host, guest: name });
  }
  return copies;
}

function whyNot(file: string, mode: Mode, { end, stderr }: SandboxReport): CarrelError {
  const stopped = end.kind === 'killed' ? `: the compiler was stopped, its limit is ${end.reason}` : '';
  return new CarrelError('validation_failed', `${file} does not compile for ${mode.title}${stopped}`, {
    hint: stderr.subarray(0, saidBytes).toString('utf8').trim() || 'the compiler gave no reason',
  });
}

/** Compiles files of the machine; the first one begins. `validation_failed` with what gcc says. */
export async function compileApart(
  { directory, name }: Pick<MachineSpec, 'directory' | 'name'>,
  image: Image,
  { mode, files }: { mode: Mode; files: readonly string[] },
  { sandboxes, signal }: Pick<DriverHost, 'sandboxes'> & { signal: AbortSignal | undefined },
): Promise<Uint8Array> {
  if (!canCompile(image))
    throw new CarrelError(
      'wrong_state',
      `machine ${name} has no compiler: its image ${image.name} is a guest`,
      {
        hint: 'put an ELF program into it, or make a machine of debian-12',
      },
    );
  if (!sandboxes) throw new CarrelError('host_unsupported', 'there are no sandboxes to compile in here');
  const { share, scratch } = microPaths(directory);
  await removeTree(scratch); // of one that was killed
  await mkdir(scratch, { recursive: true, mode: 0o700 });
  try {
    const work = await copySources(share, scratch);
    const missing = files.find((file) => !work.some(({ guest }) => guest === file));
    if (missing !== undefined) throw noFile(name, missing);
    const [first = ''] = files;
    const report = await (
      await sandboxes()
    ).run(
      {
        root: image.path,
        argv: [
          ...guestCommand(mode, { kit: kitInside, sources: files, output, start: !isAssembly(first) }),
          withoutLibrary,
        ],
        env: { LC_ALL: 'C' },
        inputs: [{ host: kit, guest: kitInside }],
        work,
        collect: [{ path: output, maxBytes: guestBytes }],
        limits,
      },
      signal ? { signal } : {},
    );
    const [made] = report.files;
    if (report.end.kind !== 'exited' || report.end.status !== 0) throw whyNot(first, mode, report);
    if (made?.data) return made.data;
    throw new CarrelError('too_large', `the guest that ${first} makes is too large`, {
      details: { maxBytes: guestBytes },
    });
  } finally {
    await removeTree(scratch);
  }
}

export const noFile = (machine: string, file: string): CarrelError =>
  new CarrelError('not_found', `there is no file ${file} in machine ${machine}`, {
    hint: `put it there: carrel machine put ${machine} ${file} ${file}`,
  });
