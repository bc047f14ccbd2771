/**
 * The images of a host: the door of this floor.
 *
 * @example
 * const images = await openImages();
 * const image = await images.ensure('busybox'); // builds it if needed
 * image.path; // the root directory, read-only by agreement
 */
import { mkdir, readFile, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { Chunks } from './archive/bytes.ts';
import { type BuildOptions, buildImage, hashRecipe } from './build.ts';
import { type OnlineRecord, readOnlineRecord } from './disk/online.ts';
import { exportImage } from './export.ts';
import { type ImageFormat, type ImportRequest, importImage, kindOfFormat } from './import.ts';
import { type Image, type Layout, defaultCache, openLayout, readImage, readImages } from './layout.ts';
import { hashContent } from './publish.ts';
import { type ImageKind, type Recipe, readRecipes } from './recipe.ts';
import { sha256 } from './tree.ts';
import { exists, openWorkspace } from './workspace.ts';

export interface ImagesOptions {
  readonly cache?: string;
  /** The directory with one folder per recipe. */
  readonly recipes?: string;
}

/** What kind of image is looked for; any unless given. */
export interface Wanted {
  readonly kind?: ImageKind;
}

function byName<T extends { readonly name: string; readonly aliases: readonly string[] }>(
  all: readonly T[],
  reference: string,
  kind: ImageKind | undefined,
): T | undefined {
  return (
    all.find(({ name }) => name === reference) ??
    all.find(({ aliases }) => aliases.includes(reference)) ??
    (kind === 'disk' ? all.find(({ name }) => name === `${reference}-disk`) : undefined)
  );
}

/** `CARREL_RECIPES`, else those that come with Carrel. */
function defaultRecipes(env: NodeJS.ProcessEnv = process.env): string {
  const chosen = env['CARREL_RECIPES'];
  return chosen !== undefined && chosen !== '' ? chosen : join(import.meta.dirname, '../../recipes');
}
const kindWords: Readonly<Record<ImageKind, string>> = {
  disk: 'is the disk of a virtual machine: --driver qemu',
  guest: 'is a guest of the hypervisor: --driver micro',
  rootfs: 'is a root file system, for containers: --driver container',
};
/** Shorter beginnings of a hash are more likely a mistyped name. */
const minHashPrefix = 8;

export class Images {
  readonly layout: Layout;
  readonly #recipes: string;

  constructor(layout: Layout, recipes: string) {
    this.layout = layout;
    this.#recipes = recipes;
  }

  /** All images, newest first. */
  async list(): Promise<Image[]> {
    return readImages(this.layout);
  }

  /** All recipes by name, built or not. */
  async recipes(): Promise<Map<string, Recipe>> {
    return readRecipes(this.#recipes);
  }

  /**
   * By name, else by alias, else by hash (at least 8 digits of it); the newest of several. With a kind, images
   * of other kinds are not seen, and for a disk NAME may also be called NAME-disk.
   */
  async find(reference: string, { kind }: Wanted = {}): Promise<Image | undefined> {
    const all = await this.list();
    const images = kind === undefined ? all : all.filter((image) => image.kind === kind);
    return (
      byName(images, reference, kind) ??
      (reference.length >= minHashPrefix
        ? images.find((image) => image.hash.startsWith(reference))
        : undefined)
    );
  }

  /** Like `find`, but `not_found` with what to do when there is none. */
  async require(reference: string, wanted: Wanted = {}): Promise<Image> {
    const image = await this.find(reference, wanted);
    if (image) return image;
    const recipe = await this.findRecipe(reference, wanted);
    const other = wanted.kind && (await this.find(reference));
    const what = wanted.kind === 'disk' ? 'disk image' : 'image';
    throw new CarrelError('not_found', `There is no ${what} ${JSON.stringify(reference.slice(0, 100))}`, {
      hint: recipe
        ? `build it with: carrel image build ${recipe.name}`
        : other
          ? `${other.name} ${kindWords[other.kind]}`
          : 'list images with: carrel image ls',
    });
  }

  /**
   * Those of these images that their recipe (with the files and programs it names) would make differently today. They
   * go on to be used: a build takes minutes, and is for the one who asks for it.
   */
  async outdated(images: readonly Image[]): Promise<ReadonlySet<Image>> {
    const recipes = await this.recipes();
    const now = new Map<string, Promise<string>>();
    const old = new Set<Image>();
    for (const image of images) {
      const recipe = recipes.get(image.name);
      if (!recipe || image.recipeHash === null) continue;
      const hash = now.get(image.name) ?? hashRecipe(recipe, this.#recipes);
      now.set(image.name, hash);
      if ((await hash) !== image.recipeHash) old.add(image);
    }
    return old;
  }

  /** What the online steps said when the image was made. */
  async onlineRecord({ directory }: Pick<Image, 'directory'>): Promise<OnlineRecord[]> {
    return readOnlineRecord(directory);
  }

  /** The recipe of a name, as `find` finds images. */
  async findRecipe(reference: string, { kind }: Wanted = {}): Promise<Recipe | undefined> {
    const recipes = [...(await this.recipes()).values()];
    return byName(
      kind === undefined ? recipes : recipes.filter((recipe) => recipe.kind === kind),
      reference,
      kind,
    );
  }

  /** The recipe's image, built if it is not there or the recipe has changed. */
  async build(reference: string, options: BuildOptions & Wanted = {}): Promise<Image> {
    const recipe = await this.findRecipe(reference, options);
    if (!recipe)
      throw new CarrelError('not_found', `There is no recipe ${JSON.stringify(reference.slice(0, 100))}`, {
        hint: `recipes are: ${[...(await this.recipes()).keys()].join(', ')}`,
      });
    return buildImage(this.layout, recipe, this.#recipes, options);
  }

  /** A root file system from an archive, or a disk; the format is stated. */
  async import(request: ImportRequest): Promise<Image> {
    return importImage(this.layout, request);
  }

  /** An image as an archive, or a disk that stands alone. */
  async export(reference: string, format: ImageFormat): Promise<Chunks> {
    return exportImage(this.layout, await this.require(reference, { kind: kindOfFormat(format) }), format);
  }

  /** An image as it is in the cache, also if it is `outdated`; if there is none, and a recipe, built. */
  async ensure(reference: string, options: BuildOptions & Wanted = {}): Promise<Image> {
    return (await this.find(reference, options)) ?? (await this.build(reference, options));
  }

  /**
   * Notes that the directory `owner` (of a machine, say) needs the image. The note outlives this process;
   * it counts as long as the directory exists.
   */
  async hold(hash: string, owner: string): Promise<void> {
    const directory = join(this.layout.holds, hash);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeFileAtomic(join(directory, sha256(owner).slice(0, 32)), `${owner}\n`);
    // `remove` takes the image away first and looks for notes again: one of us two sees the other.
    if (await readImage(this.layout, hash)) return;
    await this.release(hash, owner);
    throw new CarrelError('not_found', `image ${hash} is not in the cache any more`);
  }

  /** Takes the note back. */
  async release(hash: string, owner: string): Promise<void> {
    await rm(join(this.layout.holds, hash, sha256(owner).slice(0, 32)), { force: true });
  }

  /** The directories that need an image now. Notes of directories that are gone are dropped. */
  async holders(hash: string): Promise<string[]> {
    const directory = join(this.layout.holds, hash);
    let names: string[];
    try {
      names = await readdir(directory);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw error;
    }
    const owners: string[] = [];
    for (const name of names.filter((each) => !each.endsWith('.tmp'))) {
      const owner = (await readFile(join(directory, name), 'utf8')).trimEnd();
      if (await exists(owner)) owners.push(owner);
      else await rm(join(directory, name), { force: true });
    }
    return owners;
  }

  async #refuseIfHeld({ hash, name }: Image): Promise<void> {
    const owners = await this.holders(hash);
    if (owners.length === 0) return;
    throw new CarrelError(
      'wrong_state',
      `image ${name} is used by ${owners.length} ${owners.length === 1 ? 'machine' : 'machines'}`,
      {
        hint: 'delete them first',
        details: { owners: owners.slice(0, 20) },
      },
    );
  }

  /** Removes an image that nobody holds; `wrong_state` names who does. */
  async remove(reference: string): Promise<void> {
    const image = await this.require(reference);
    await this.#refuseIfHeld(image);
    await using workspace = await openWorkspace(this.layout.tmp, 'remove');
    const aside = join(workspace.directory, 'image');
    await rename(image.directory, aside);
    try {
      await this.#refuseIfHeld(image);
    } catch (error) {
      await rename(aside, image.directory);
      throw error;
    }
    await rm(join(this.layout.holds, image.hash), { recursive: true, force: true });
  }

  /** Reads all of it and compares; `internal` when a file was changed behind our back. */
  async verify(reference: string): Promise<Image> {
    const image = await this.require(reference);
    const { hash } = await hashContent(image.directory, image);
    if (hash !== image.hash)
      throw new CarrelError('internal', `image ${image.name} is not what it was when it was made`, {
        hint: `remove it and build it again: carrel image build ${image.name} --force`,
        details: { expected: image.hash, found: hash },
      });
    return image;
  }
}

/** Opens the cache (made if missing). */
export async function openImages({
  cache = defaultCache(),
  recipes = defaultRecipes(),
}: ImagesOptions = {}): Promise<Images> {
  return new Images(await openLayout(cache), recipes);
}
