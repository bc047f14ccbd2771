/** What each step of a recipe does to the tree; the table of the vocabulary in recipe.ts. */
import { chmod, chown, lchown, lstat, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import type { BuildContext } from './bases.ts';
import { runCommand } from './command.ts';
import { makeDirectories, resolveInRoot } from './inroot.ts';
import { readNative } from './natives.ts';
import type { MachineFact, RecipeStep } from './recipe.ts';
import { sha256, walkTree } from './tree.ts';
import { exists } from './workspace.ts';

type StepOf<Do extends RecipeStep['do']> = Extract<RecipeStep, { do: Do }>;

/** Without root every file is the builder's: nothing else can be given away. */
const canChown = process.geteuid?.() === 0;

async function own(path: string, uid: number, gid: number): Promise<void> {
  if (canChown) await lchown(path, uid, gid);
}

async function directory(
  { paths, mode, uid, gid }: StepOf<'directory'>,
  { root }: BuildContext,
): Promise<void> {
  for (const path of paths) {
    const place = await resolveInRoot(root, path);
    await makeDirectories(place);
    if (!(await lstat(place)).isDirectory())
      throw new CarrelError('validation_failed', `${path} exists and is not a directory`);
    await own(place, uid, gid);
    await chmod(place, mode); // the umask must not decide
  }
}

type FileContent = Omit<StepOf<'file'>, 'do' | 'content'> & { readonly content: string | Uint8Array };

const plain = { mode: 0o644, uid: 0, gid: 0 } as const;

async function file(step: FileContent, { root }: Pick<BuildContext, 'root'>): Promise<void> {
  const place = await resolveInRoot(root, step.path);
  await makeDirectories(dirname(place));
  await rm(place, { force: true }); // it may be a link to somewhere else
  await writeFile(place, step.content, { flag: 'wx' });
  if (canChown) await chown(place, step.uid, step.gid);
  await chmod(place, step.mode);
}

async function link({ path, target }: StepOf<'symlink'>, { root }: BuildContext): Promise<void> {
  const place = await resolveInRoot(root, path);
  await makeDirectories(dirname(place));
  await rm(place, { force: true });
  await symlink(target, place);
}

/** Matches one name against a pattern in which only `*` is special. */
export function matches(pattern: string, name: string): boolean {
  const source = pattern.split('*').map((text) => text.replaceAll(/[\\^$.|?+()[\]{}]/g, String.raw`\$&`));
  return new RegExp(`^${source.join('.*')}$`, 's').test(name);
}

async function remove({ paths }: StepOf<'remove'>, { root }: BuildContext): Promise<void> {
  for (const path of paths) {
    const above = await resolveInRoot(root, `${dirname(path)}/.`);
    let names: string[];
    try {
      names = await readdir(above);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') continue;
      throw error;
    }
    for (const name of names)
      if (matches(basename(path), name)) await rm(join(above, name), { recursive: true, force: true });
  }
}

/** One more line in a file of accounts, keeping its owner and mode. */
async function addLine(root: string, path: string, line: string, mode: number): Promise<void> {
  const place = await resolveInRoot(root, path);
  let text = '';
  try {
    text = await readFile(place, 'utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  const key = `${line.slice(0, line.indexOf(':'))}:`;
  if (text.split('\n').some((each) => each.startsWith(key)))
    throw new CarrelError('validation_failed', `${path} has "${key.slice(0, -1)}" already`);
  const newline = text === '' || text.endsWith('\n') ? '' : '\n';
  await writeFile(place, `${text}${newline}${line}\n`);
  if (text === '') await chmod(place, mode);
}

/** passwd(5), shadow(5) (`!`: no password opens it), group(5). */
async function user(step: StepOf<'user'>, context: BuildContext): Promise<void> {
  const { root } = context;
  const { name, uid, gid = uid, comment, home, shell, groups } = step;
  await addLine(root, '/etc/passwd', `${name}:x:${uid}:${gid}:${comment}:${home}:${shell}`, 0o644);
  await addLine(root, '/etc/shadow', `${name}:!:19000:0:99999:7:::`, 0o640);
  await addLine(root, '/etc/group', `${name}:x:${gid}:`, 0o644);
  if (groups.length > 0) {
    const place = await resolveInRoot(root, '/etc/group');
    const lines = (await readFile(place, 'utf8')).split('\n').map((line) => {
      const [group = '', , , members = ''] = line.split(':');
      if (!groups.includes(group)) return line;
      return `${line}${members === '' ? '' : ','}${name}`;
    });
    await writeFile(place, lines.join('\n'));
  }
  await directory({ do: 'directory', paths: [home], mode: 0o755, uid, gid }, context);
}

async function run(
  { argv, seconds }: StepOf<'run'>,
  { root, lockFd, signal, report }: BuildContext,
): Promise<void> {
  await runCommand(['chroot', root, ...argv], {
    ms: seconds * 1000,
    contained: true,
    offline: true,
    lockFd,
    signal,
    onLine: report,
  });
}

/** A folder over the root; what git does not keep of a file (owner, exact mode) is not taken from the host. */
async function copyFiles({ from }: StepOf<'copy_files'>, { root, recipes }: BuildContext): Promise<void> {
  const source = join(recipes, from);
  for await (const { path, stats } of walkTree(source)) {
    const place = await resolveInRoot(root, path);
    if (stats.isDirectory()) {
      await makeDirectories(place);
      continue;
    }
    if (!stats.isFile()) throw new CarrelError('validation_failed', `${join(from, path)} is not a file`);
    const mode = (stats.mode & 0o100) === 0 ? 0o644 : 0o755;
    await file({ path, content: await readFile(join(source, path)), mode, uid: 0, gid: 0 }, { root });
  }
}

const agentPlace = '/usr/lib/carrel/agent';

/** How an image is left without a fact that each machine has for itself. */
const withoutFact: Readonly<Record<MachineFact, (context: BuildContext) => Promise<void>>> = {
  'host-name': (context) => file({ path: '/etc/hostname', content: '', ...plain }, context),
  'machine-id': async (context) => {
    await file({ path: '/etc/machine-id', content: '', ...plain }, context);
    await remove({ do: 'remove', paths: ['/var/lib/dbus/machine-id'] }, context);
  },
  'ssh-host-keys': (context) =>
    remove({ do: 'remove', paths: ['/etc/ssh/ssh_host_*_key*', '/etc/dropbear/*_host_key'] }, context),
  'authorized-keys': async (context) => {
    await directory({ do: 'directory', paths: ['/root/.ssh'], mode: 0o700, uid: 0, gid: 0 }, context);
    await remove({ do: 'remove', paths: ['/root/.ssh/*'] }, context);
  },
  'root-password': async ({ root }) => {
    const place = await resolveInRoot(root, '/etc/shadow');
    if (!(await exists(place))) return; // nor a password in it
    const text = await readFile(place, 'utf8');
    await writeFile(place, text.replace(/^root:[^:]*:/m, 'root:!:'));
  },
  'random-seed': (context) => remove({ do: 'remove', paths: ['/var/lib/systemd/random-seed'] }, context),
  network: async (context) => {
    await file({ path: '/etc/resolv.conf', content: '', ...plain }, context);
    await directory({ do: 'directory', paths: ['/etc/carrel'], mode: 0o755, uid: 0, gid: 0 }, context);
    await remove({ do: 'remove', paths: ['/etc/carrel/network'] }, context);
  },
};

/** What besides its text a step takes from the host: part of the recipe's hash. */
export async function stepFingerprint(step: RecipeStep, recipes: string): Promise<string> {
  if (step.do === 'agent') return sha256(await readNative('agent'));
  if (step.do !== 'copy_files') return '';
  const parts: string[] = [];
  for await (const { path, stats } of walkTree(join(recipes, step.from)))
    if (stats.isFile())
      parts.push(`${path} ${stats.mode & 0o100} ${sha256(await readFile(join(recipes, step.from, path)))}`);
  return parts.join('\n');
}

/** Carries out one step. */
export async function applyStep(step: RecipeStep, context: BuildContext): Promise<void> {
  switch (step.do) {
    case 'directory':
      return directory(step, context);
    case 'file':
      return file(step, context);
    case 'symlink':
      return link(step, context);
    case 'packages':
      return; // installed with the base
    case 'user':
      return user(step, context);
    case 'remove':
      return remove(step, context);
    case 'run':
      return run(step, context);
    case 'copy_files':
      return copyFiles(step, context);
    case 'agent':
      return file(
        { path: agentPlace, content: await readNative('agent'), mode: 0o755, uid: 0, gid: 0 },
        context,
      );
    case 'per_machine':
      for (const fact of step.facts) await withoutFact[fact](context);
      return;
    case 'online':
      return; // in the machine, once its disk is made
  }
}

/** A step in a few words, for progress. */
export function describeStep(step: RecipeStep): string {
  if ('paths' in step) return `${step.do} ${step.paths.join(' ')}`;
  if ('path' in step) return `${step.do} ${step.path}`;
  if ('argv' in step) return `${step.do} ${step.argv.join(' ')}`;
  if (step.do === 'copy_files') return `copy_files ${step.from}`;
  if (step.do === 'per_machine') return `per_machine ${step.facts.join(' ')}`;
  if (step.do === 'agent') return step.do;
  return `${step.do} ${'names' in step ? step.names.join(' ') : step.name}`;
}
