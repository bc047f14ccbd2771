/** How the first step of a recipe fills an empty root directory: one function per kind of base. */
import { execFile } from 'node:child_process';
import { access, chmod, copyFile, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { arch } from 'node:os';
import { promisify } from 'node:util';
import { CarrelError } from '#base/errors.ts';
import { safeRelativePath } from './archive/paths.ts';
import { exitStatusOf, runCommand } from './command.ts';
import { makeDirectories } from './inroot.ts';
import { type AptSource, hostSources, mirrorsFor, sourceLine } from './mirrors.ts';
import type { Recipe, RecipeBase } from './recipe.ts';
import { sha256 } from './tree.ts';

export interface BuildContext {
  /** The image's root directory on the host. */
  readonly root: string;
  /** The directory of recipes: folders of files lie there too. */
  readonly recipes: string;
  readonly lockFd: number;
  readonly signal: AbortSignal | undefined;
  readonly report: (detail: string) => void;
}

export type DebianBase = Extract<RecipeBase, { from: 'mmdebstrap' }>;

const busyboxPlaces = ['/bin/busybox', '/usr/bin/busybox'] as const;

async function findBusybox(): Promise<string> {
  for (const place of busyboxPlaces)
    try {
      await access(place);
      return place;
    } catch {
      // try the next
    }
  throw new CarrelError('host_unsupported', 'busybox is not installed on this host', {
    hint: 'apt-get install busybox-static',
  });
}

/** PT_INTERP in the program headers of a 64-bit ELF file: it asks for a dynamic linker (elf(5)). */
export function isDynamic(elf: Uint8Array): boolean {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  if (elf.length < 64 || view.getUint32(0) !== 0x7f454c46) return false;
  const start = Number(view.getBigUint64(32, true));
  const size = view.getUint16(54, true);
  const count = view.getUint16(56, true);
  for (let at = start, left = count; left > 0 && at + 4 <= elf.length; at += size, left -= 1)
    if (view.getUint32(at, true) === 3) return true;
  return false;
}

async function buildBusybox({ root, report }: BuildContext): Promise<void> {
  const program = await findBusybox();
  if (isDynamic(await readFile(program)))
    throw new CarrelError('host_unsupported', `${program} is not static: it cannot run alone in an image`, {
      hint: 'apt-get install busybox-static',
    });
  const { stdout } = await promisify(execFile)(program, ['--list-full'], { timeout: 10_000 });
  const commands = stdout.split('\n').filter(Boolean);
  for (const directory of ['bin', 'sbin', 'usr/bin', 'usr/sbin'])
    await makeDirectories(join(root, directory));
  await copyFile(program, join(root, 'bin/busybox'));
  await chmod(join(root, 'bin/busybox'), 0o755);
  for (const command of commands) {
    const path = safeRelativePath(command, { code: 'helper_failed' });
    if (path === 'bin/busybox') continue;
    // `linuxrc` at the top belongs to initial RAM disks.
    if (!path.includes('/')) continue;
    await makeDirectories(join(root, dirname(path)));
    await symlink(relative(`/${dirname(path)}`, '/bin/busybox'), join(root, path));
  }
  report(`${commands.length} commands`);
}

/** Measured 44 s on two cores with a mirror nearby; a slow line may take many times that. */
const debootstrapMs = 30 * 60_000;

/** Fills `context.root` (an empty directory) with packages and what they need, from the host's own mirrors. */
export async function debootstrap(
  base: DebianBase,
  packages: readonly string[],
  { root, lockFd, signal, report }: Omit<BuildContext, 'recipes'>,
): Promise<readonly AptSource[]> {
  if (process.geteuid?.() !== 0)
    throw new CarrelError('host_unsupported', 'building a Debian image needs root on this host', {
      hint: 'build it once as root and import it: carrel image export, carrel image import',
    });
  const mirrors = mirrorsFor(await hostSources(), base);
  const argv = ['mmdebstrap', '--mode=root', '--format=directory', `--variant=${base.variant}`];
  argv.push('--aptopt=Apt::Install-Recommends "false"');
  for (const path of base.exclude) argv.push(`--dpkgopt=path-exclude=${path}`);
  if (packages.length > 0) argv.push(`--include=${packages.join(',')}`);
  argv.push(base.suite, root, ...mirrors.map((source) => sourceLine(source)));
  try {
    await runCommand(argv, {
      ms: debootstrapMs,
      contained: true,
      lockFd,
      signal,
      env: { DEBIAN_FRONTEND: 'noninteractive' },
      onLine: (line) => {
        const step = /^I: (.*)$/.exec(line)?.[1];
        if (step !== undefined) report(step);
      },
    });
  } catch (error) {
    if (exitStatusOf(error) === 127)
      throw new CarrelError('host_unsupported', 'mmdebstrap is not installed on this host', {
        hint: 'apt-get install mmdebstrap',
        cause: error,
      });
    throw error;
  }
  return mirrors;
}

async function buildDebian(
  base: DebianBase,
  packages: readonly string[],
  context: BuildContext,
): Promise<void> {
  const { root } = context;
  const mirrors = await debootstrap(base, packages, context);
  // Device nodes are the running machine's business.
  await rm(join(root, 'dev'), { recursive: true, force: true });
  await makeDirectories(join(root, 'dev'));
  // Its own settings name the host's proxy; what a machine needs is one line per mirror.
  await rm(join(root, 'etc/apt/apt.conf.d/99mmdebstrap'), { force: true });
  const lines = mirrors.map((source) => `${sourceLine(source, { inImage: true })}\n`);
  await makeDirectories(join(root, 'etc/apt'));
  await writeFile(join(root, 'etc/apt/sources.list'), lines.join(''), { mode: 0o644 });
}

/** Fills `context.root` (an empty directory). */
export async function buildBase({ base, steps }: Recipe, context: BuildContext): Promise<void> {
  switch (base.from) {
    case 'busybox':
      return buildBusybox(context);
    case 'mmdebstrap':
      return buildDebian(
        base,
        steps.flatMap((step) => (step.do === 'packages' ? step.names : [])),
        context,
      );
  }
}

/** What besides the recipe's text decides the result: part of the recipe's hash. */
export async function baseFingerprint(base: RecipeBase): Promise<string> {
  const version = base.from === 'busybox' ? sha256(await readFile(await findBusybox())) : '';
  return `1 ${arch()} ${base.from} ${version}`;
}
