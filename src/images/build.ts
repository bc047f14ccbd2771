/**
 * Builds an image from a recipe: in a workspace, step by step, then published by one rename. One build of
 * a recipe at a time on a host; whoever waited finds the image made.
 */
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { arch } from 'node:os';
import { until } from '#base/deadline.ts';
import { type FileLock, tryLock } from '#host/flock.ts';
import { type BuildContext, baseFingerprint, buildBase } from './bases.ts';
import { type Image, type Layout, readImages } from './layout.ts';
import { makeDisk } from './disk/make.ts';
import { type OnlineRunner, onlineSteps, runOnline } from './disk/online.ts';
import { readNative } from './natives.ts';
import { type Described, publish, stageImage, stageRoot } from './publish.ts';
import type { Recipe } from './recipe.ts';
import { applyStep, describeStep, stepFingerprint } from './steps.ts';
import { sha256 } from './tree.ts';
import { openWorkspace } from './workspace.ts';

export interface BuildProgress {
  /** 1 to `of`. */
  readonly step: number;
  readonly of: number;
  readonly what: string;
  /** The helper's own words, if any. */
  readonly detail?: string;
}

export interface BuildOptions {
  /** Build again even if the recipe's image is there (to get newer packages). */
  readonly force?: boolean;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Runs the online steps of a disk's recipe; a recipe with such steps cannot be built without it. */
  readonly online?: OnlineRunner;
}

/** As long as a build may take at most, with some time to spare. */
const waitForOtherMs = 45 * 60_000;

/** Changes when disks come to be made in another way. */
const diskVersion = 1;

/** The recipe, and what else decides the result: equal hash, equal image (as far as the mirror is). */
export async function hashRecipe(
  { name, kind, base, steps, disk }: Recipe,
  recipes: string,
): Promise<string> {
  const from: string[] = [await baseFingerprint(base)];
  for (const step of steps) from.push(await stepFingerprint(step, recipes));
  if (disk) from.push(`disk ${diskVersion}`, sha256(await readNative('early')));
  const files = from.filter((each, index) => index === 0 || each !== '');
  const made = { name, kind, base, steps, with: files.length === 1 ? files[0] : files, arch: arch() };
  return sha256(JSON.stringify(disk ? { ...made, disk } : made));
}

/** The image already made from exactly this recipe. */
async function findBuilt(layout: Layout, recipeHash: string): Promise<Image | undefined> {
  return (await readImages(layout)).find((image) => image.recipeHash === recipeHash);
}

async function lockBuild(
  layout: Layout,
  name: string,
  { signal, onProgress }: BuildOptions,
): Promise<FileLock> {
  const path = join(layout.locks, `build-${name}.lock`);
  const lock = tryLock(path);
  if (lock) return lock;
  onProgress?.({ step: 1, of: 1, what: `waiting for the build of ${name} that is under way` });
  return until(waitForOtherMs, `the other build of ${name}`, () => tryLock(path), {
    everyMs: 100,
    ...(signal === undefined ? {} : { signal }),
  });
}

/** The root directory of a disk, beside what will be the image. */
async function stageTree(workspace: string): Promise<string> {
  const root = join(workspace, 'root');
  await mkdir(root, { mode: 0o700 });
  await chmod(root, 0o755);
  return root;
}

/** The recipe's image: the one there is, or a new one. `recipes` is the directory that the recipe came from. */
export async function buildImage(
  layout: Layout,
  recipe: Recipe,
  recipes: string,
  options: BuildOptions = {},
): Promise<Image> {
  const { force = false, onProgress, signal } = options;
  const recipeHash = await hashRecipe(recipe, recipes);
  const before = await findBuilt(layout, recipeHash);
  if (before && !force) return before;

  const online = onlineSteps(recipe.steps, options.online);
  using lock = await lockBuild(layout, recipe.name, options);
  const meanwhile = await findBuilt(layout, recipeHash);
  if (meanwhile && meanwhile.createdAt !== before?.createdAt) return meanwhile;

  await using workspace = await openWorkspace(layout.tmp, recipe.name);
  const { name, aliases, description, kind, base, disk } = recipe;
  const root = disk ? await stageTree(workspace.directory) : await stageRoot(workspace.directory);
  const steps = recipe.steps.filter((step) => step.do !== 'packages' && step.do !== 'online');
  const of = steps.length + 2 + (disk ? 2 : 0) + Math.min(online.length, 1);
  let done = 0;
  let what = '';
  const report = (detail?: string): void =>
    onProgress?.({ step: done, of, what, ...(detail === undefined ? {} : { detail }) });
  const next = (name: string): void => {
    signal?.throwIfAborted();
    done += 1;
    what = name;
    report();
  };
  // The helper holds the recipe's lock too: until it is gone, no other build starts.
  const context: BuildContext = { root, recipes, lockFd: lock.fd, signal, report };

  next(`base ${recipe.base.from}`);
  await buildBase(recipe, context);
  for (const step of steps) {
    next(describeStep(step));
    await applyStep(step, context);
  }
  const described: Described = { name, aliases, description, kind, recipeHash };
  if (disk && base.from === 'mmdebstrap') {
    const scratch = join(workspace.directory, 'scratch');
    await mkdir(scratch);
    const agent = steps.some((step) => step.do === 'agent');
    const staged = await stageImage(workspace.directory);
    await makeDisk({ root, disk, base, scratch, staged, identity: recipeHash }, context, next);
    if (options.online && online.length > 0) {
      next(`in the machine: ${online.length} programs`);
      await runOnline(options.online, staged, {
        steps: online,
        append: disk.append,
        agent,
        onReport: ({ end, output }, { argv }) => report(`${output}${argv.join(' ')} ${end}`),
        signal,
      });
    }
    described.disk = { virtualBytes: disk.size, boot: { append: disk.append }, agent };
  }
  next('hash and publish');
  // Awaited here: the workspace goes when this function is left.
  return await publish(layout, workspace.directory, described, { signal });
}
