/**
 * Guests in C and assembly, compiled with gcc and the kit in guests/: freestanding (no library, no start files of
 * the host), at fixed addresses from 0 on, and without instructions that a bare processor has not switched on.
 */
import { access, readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CarrelError } from '#base/errors.ts';
import { type Argv, launch } from '#host/launch.ts';
import { openScratch } from '#host/scratch.ts';
import type { Mode } from '../modes/mode.ts';
import { isElf, readElf } from './elf.ts';
import { flatImage, type GuestImage } from './image.ts';

/** The kit: header, start code, linker script, examples. */
export const kit = fileURLToPath(new URL('../../../guests', import.meta.url));

export const gcc = '/usr/bin/gcc';

/** Where the kit lies in a sandbox in which a stranger's guest is compiled. */
export const kitInside = '/kit';
/** For there: the compiler's own headers (stdint.h), and none of a library's, for there is none to link. */
export const withoutLibrary = '--sysroot=/nonexistent';

const compileMs = 30_000;

/** gcc(1); the reason stands beside each that is not self-evident. */
const flags = [
  '-std=gnu11',
  '-O2',
  '-Wall',
  '-ffreestanding', // no library: main is a function like any other
  '-nostdlib',
  '-static',
  '-fno-pic',
  '-no-pie',
  '-fno-stack-protector', // its canary is found through %fs, which points nowhere
  '-fcf-protection=none', // no endbr instructions before the first one
  '-mgeneral-regs-only', // SSE is off until CR4.OSFXSR is set
  '-mno-red-zone', // an interrupt on the same stack would overwrite it
  '-fno-asynchronous-unwind-tables',
] as const;

const linkFlags = ['-Wl,--build-id=none', '-Wl,--no-warn-rwx-segments'] as const;

/** The command that makes an object of sources: to be linked later. */
export const objectCommand = (
  { bits }: Pick<Mode, 'bits'>,
  { kit, sources, output }: { kit: string; sources: readonly string[]; output: string },
): Argv => [gcc, `-m${bits}`, `-DGUEST_BITS=${bits}`, ...flags, `-I${kit}`, '-r', '-o', output, ...sources];

/** The command that makes a guest of sources and objects. C begins with the kit's start code. */
export const guestCommand = (
  { bits }: Pick<Mode, 'bits'>,
  {
    kit,
    sources,
    output,
    start,
  }: { kit: string; sources: readonly string[]; output: string; start: boolean },
): Argv => [
  gcc,
  `-m${bits}`,
  `-DGUEST_BITS=${bits}`,
  ...flags,
  ...linkFlags,
  `-I${kit}`,
  `-Wl,-T,${join(kit, 'guest.ld')}`,
  '-o',
  output,
  ...(start ? [join(kit, 'start.S')] : []),
  ...sources,
];

/** Is it assembly? It brings its own first instruction. */
export const isAssembly = (source: string): boolean => ['.s', '.S'].includes(extname(source));

/** Compiles a .c, .s or .S file for a mode to an ELF program; what gcc says against it is the error's hint. */
export async function compileElf(source: string, mode: Mode): Promise<Buffer> {
  await using scratch = await openScratch('carrel-guest');
  const { directory } = scratch;
  const program = join(directory, 'guest.elf');
  const result = await launch(
    guestCommand(mode, { kit, sources: [source], output: program, start: !isAssembly(source) }),
    // gcc's own files lie there as well
    {
      timeoutMs: compileMs,
      maxOutputBytes: 65_536,
      env: { ...process.env, LC_ALL: 'C', TMPDIR: directory },
    },
  );
  if (result.status !== 0)
    throw new CarrelError('validation_failed', `${source} does not compile for ${mode.title}`, {
      hint: result.stderr.toString('utf8').trim(),
    });
  return await readFile(program);
}

/** The same, as it is to lie in memory. */
export const compileGuest = async (source: string, mode: Mode): Promise<GuestImage> =>
  readElf(await compileElf(source, mode));

/** A guest from a file: C, assembly, ELF, or (by the endings .bin and .img) machine code as it is. */
export async function loadGuest(path: string, mode: Mode): Promise<GuestImage> {
  const kind = extname(path);
  await access(path); // gcc would say it in its own words
  if (kind === '.c' || isAssembly(path)) return await compileGuest(path, mode);
  const bytes = await readFile(path);
  if (isElf(bytes)) return readElf(bytes);
  if (kind === '.bin' || kind === '.img') return flatImage(bytes);
  throw new CarrelError('invalid_request', `${path} is no guest`, {
    hint: 'a guest is a file in C (.c), in assembly (.s, .S), an ELF program, or plain machine code (.bin, .img)',
  });
}
