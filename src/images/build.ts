/**
 * Builds an image from a recipe: in a workspace, step by step, then published by one rename. One build of
 * a recipe at a time on a host; whoever waited finds the image made.
 */
import { join } from 'node:path';
import { arch } from 'node:os';
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { type FileLock, tryLock } from '#host/flock.ts';
import { type BuildContext, baseFingerprint, buildBase } from './bases.ts';
import { type Image, type Layout, readImages } from './layout.ts';
import { publish, stageRoot } from './publish.ts';
import type { Recipe } from './recipe.ts';
import { applyStep, describeStep } from './steps.ts';
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
}

/** As long as a build may take at most, with some time to spare. */
const waitForOtherMs = 45 * 60_000;

/** The recipe, and what else decides the result: equal hash, equal image (as far as the mirror is). */
export async function hashRecipe({ name, kind, base, steps }: Recipe): Promise<string> {
  return sha256(JSON.stringify({ name, kind, base, steps, with: await baseFingerprint(base), arch: arch() }));
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

/** The recipe's image: the one there is, or a new one. */
export async function buildImage(layout: Layout, recipe: Recipe, options: BuildOptions = {}): Promise<Image> {
  const { force = false, onProgress, signal } = options;
  if (recipe.kind === 'disk')
    throw new CarrelError(
      'driver_unsupported',
      `${recipe.name} is a disk; this build makes root directories`,
    );
  const recipeHash = await hashRecipe(recipe);
  const before = await findBuilt(layout, recipeHash);
  if (before && !force) return before;

  using lock = await lockBuild(layout, recipe.name, options);
  const meanwhile = await findBuilt(layout, recipeHash);
  if (meanwhile && meanwhile.createdAt !== before?.createdAt) return meanwhile;

  await using workspace = await openWorkspace(layout.tmp, recipe.name);
  const root = await stageRoot(workspace.directory);
  const steps = recipe.steps.filter((step) => step.do !== 'packages');
  const of = steps.length + 2;
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
  const context: BuildContext = { root, lockFd: lock.fd, signal, report };

  next(`base ${recipe.base.from}`);
  await buildBase(recipe, context);
  for (const step of steps) {
    next(describeStep(step));
    await applyStep(step, context);
  }
  next('hash and publish');
  const { name, aliases, description, kind } = recipe;
  // Awaited here: the workspace goes when this function is left.
  return await publish(
    layout,
    workspace.directory,
    { name, aliases, description, kind, recipeHash },
    { signal },
  );
}
