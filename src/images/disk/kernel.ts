/** The kernel of a disk: Debian's package, unpacked beside the root and not installed, so that no script of it runs. */
import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { type BuildContext, type DebianBase, debootstrap } from '../bases.ts';
import { runCommand } from '../command.ts';
import { makeDirectories, resolveInRoot } from '../inroot.ts';
import type { RecipeDisk } from '../recipe.ts';
import { unpackKernel } from './bzimage.ts';
import { type Modules, readModules } from './modules.ts';

export interface Kernel {
  readonly version: string;
  /** The unpacked packages: the kernel's, and kmod. */
  readonly tree: string;
  /** The bzImage. */
  readonly image: Buffer;
  readonly modules: Modules;
}

/** Debian's own: nothing of the packages but programs, kernel and modules is looked at. */
const unwanted = ['/usr/share/*', '/boot/System.map*'];

/** Unpacks a kernel package into `place`, and lists its modules. */
export async function fetchKernel(
  { kernel }: RecipeDisk,
  base: DebianBase,
  place: string,
  context: Omit<BuildContext, 'root'>,
): Promise<Kernel> {
  await mkdir(place);
  await debootstrap({ ...base, variant: 'extract', exclude: unwanted }, [kernel, 'kmod'], {
    ...context,
    root: place,
  });
  const versions = await readdir(join(place, 'lib/modules'));
  const [version] = versions;
  if (version === undefined || versions.length > 1)
    throw new CarrelError(
      'helper_failed',
      `the package ${kernel} brings ${versions.length} kernels instead of one`,
    );
  await depmod(place, version, context);
  return {
    version,
    tree: place,
    image: await readFile(join(place, 'boot', `vmlinuz-${version}`)),
    modules: await readModules(join(place, 'lib/modules', version)),
  };
}

async function depmod(
  tree: string,
  version: string,
  { lockFd, signal }: Pick<BuildContext, 'lockFd' | 'signal'>,
): Promise<void> {
  const argv = ['chroot', tree, '/sbin/depmod', version];
  await runCommand(argv, { ms: 120_000, contained: true, offline: true, lockFd, signal });
}

/** Leaves only the wanted modules and what they need in the tree. */
async function pruneModules(wanted: readonly string[], { modules }: Kernel): Promise<void> {
  const keep = new Set<string>();
  for (const name of wanted) {
    const files = modules.closure(name);
    if (!files)
      throw new CarrelError('validation_failed', `the recipe wants the module ${name}; the kernel has none`);
    for (const file of files) keep.add(file);
  }
  for (const file of modules.files) if (!keep.has(file)) await rm(join(modules.directory, file));
}

/** Puts the kernel, the RAM disk and the modules of the recipe into the root. */
export async function installKernel(
  kernel: Kernel,
  initramfs: Uint8Array,
  { modules }: RecipeDisk,
  context: BuildContext,
): Promise<void> {
  const { root } = context;
  if (modules !== 'all') {
    await pruneModules(modules, kernel);
    await depmod(kernel.tree, kernel.version, context);
  }
  const above = await resolveInRoot(root, '/lib/modules');
  await makeDirectories(above);
  await cp(kernel.modules.directory, join(above, kernel.version), {
    recursive: true,
    preserveTimestamps: true,
  });
  const boot = await resolveInRoot(root, '/boot');
  await makeDirectories(boot);
  await writeFile(join(boot, 'vmlinuz'), kernel.image, { mode: 0o644 });
  await writeFile(join(boot, 'initrd.img'), initramfs, { mode: 0o644 });
}

/** What QEMU loads by itself: the kernel proper if it can be had, for it starts sooner; else the bzImage. */
export function directKernel({ image }: Kernel): Buffer {
  return unpackKernel(image) ?? image;
}
