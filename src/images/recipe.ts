/**
 * A recipe says how an image is made, as data: a base, then steps out of a small closed vocabulary.
 * It is parsed once, here; an unknown field is refused. Nothing in it is ever given to a shell.
 */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { safeRelativePath } from './archive/paths.ts';

/** What an image can be: a directory to be used as `/`, or the disk of a virtual machine. */
export const imageKinds = ['rootfs', 'disk'] as const;
export type ImageKind = (typeof imageKinds)[number];

/** Image names go into paths, URLs and command lines. */
export const imageName = z
  .string()
  .regex(
    /^[a-z0-9][a-z0-9._-]{0,62}$/,
    'must be 1 to 63 small letters, digits, dots, dashes, underscores; first a letter or digit',
  );

const mode = z
  .string()
  .regex(/^[0-7]{4}$/, 'must be four octal digits in quotes, for example "0755"')
  .transform((text) => Number.parseInt(text, 8));

const id = z.int().min(0).max(65_535);

/** An absolute path inside the image, in normal form. */
const path = z.string().transform((text, context) => {
  try {
    if (!text.startsWith('/')) throw new CarrelError('validation_failed', `${text} must begin with a slash`);
    return `/${safeRelativePath(text.slice(1), { code: 'validation_failed' })}`;
  } catch (error) {
    context.addIssue(messageOf(error));
    return z.NEVER;
  }
});

const argument = z.string().regex(/^[^\0]*$/, 'must not contain a NUL character');
/** Goes into colon-separated lines (passwd(5)). */
const accountField = z.string().regex(/^[^:\n\0]*$/, 'must not contain a colon or a newline');
const accountName = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'must be a user name');
const packageName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9+.-]+$/, 'must be the name of a Debian package (Debian policy 5.6.1)');
const suiteName = z.string().regex(/^[a-z][a-z0-9-]*$/, 'must be the name of a Debian suite');

const step = z.discriminatedUnion('do', [
  z.strictObject({
    do: z.literal('directory'),
    paths: z.array(path).min(1),
    mode: mode.prefault('0755'),
    uid: id.default(0),
    gid: id.default(0),
  }),
  z.strictObject({
    do: z.literal('file'),
    path,
    content: z.string(),
    mode: mode.prefault('0644'),
    uid: id.default(0),
    gid: id.default(0),
  }),
  z.strictObject({ do: z.literal('symlink'), path, target: argument.min(1) }),
  /** Gathered from all steps and installed with the base. */
  z.strictObject({ do: z.literal('packages'), names: z.array(packageName).min(1) }),
  /** A user without a password, with a home directory if `home` is given. */
  z.strictObject({
    do: z.literal('user'),
    name: accountName,
    uid: id,
    gid: id.optional(),
    comment: accountField.default(''),
    home: path,
    shell: path,
    groups: z.array(accountName).default([]),
  }),
  /** `*` in the last part stands for any characters; a directory goes with all that is in it. */
  z.strictObject({ do: z.literal('remove'), paths: z.array(path).min(1) }),
  /** A program of the image itself, run in it as root without a network. */
  z.strictObject({
    do: z.literal('run'),
    argv: z.array(argument).min(1),
    seconds: z.int().min(1).max(3600).default(60),
  }),
]);

const base = z.discriminatedUnion('from', [
  /** The host's static busybox, and a link for each of its commands. */
  z.strictObject({ from: z.literal('busybox') }),
  /** mmdebstrap(1), from the mirrors the host itself uses. */
  z.strictObject({
    from: z.literal('mmdebstrap'),
    suite: suiteName,
    variant: z.enum(['essential', 'apt', 'minbase', 'required', 'important', 'standard']).default('minbase'),
    components: z.array(suiteName).min(1).default(['main']),
    /** Paths that dpkg does not unpack (dpkg(1), --path-exclude). */
    exclude: z.array(path).default([]),
  }),
]);

const recipeSchema = z.strictObject({
  name: imageName,
  kind: z.enum(imageKinds),
  aliases: z.array(imageName).default([]),
  description: z.string().max(500),
  base,
  steps: z.array(step).default([]),
});

export type Recipe = z.output<typeof recipeSchema>;
export type RecipeStep = z.output<typeof step>;
export type RecipeBase = z.output<typeof base>;

/** A recipe from the text of a recipe.yaml; `where` names it in errors. */
export function parseRecipe(text: string, where = 'recipe'): Recipe {
  let data: unknown;
  try {
    // Aliases in YAML are the classic small text that grows without end.
    data = parse(text, { maxAliasCount: 0, uniqueKeys: true });
  } catch (cause) {
    throw new CarrelError('validation_failed', `${where} is not valid YAML: ${messageOf(cause)}`, { cause });
  }
  const result = recipeSchema.safeParse(data);
  if (!result.success)
    throw new CarrelError('validation_failed', `${where}: ${z.prettifyError(result.error)}`, {
      details: {
        issues: result.error.issues.map(({ path, message }) => ({ path: path.join('.'), message })),
      },
    });
  const recipe = result.data;
  if (recipe.base.from !== 'mmdebstrap' && recipe.steps.some((each) => each.do === 'packages'))
    throw new CarrelError('validation_failed', `${where}: packages need the base mmdebstrap`);
  return recipe;
}

/** The recipe in `directory/recipe.yaml`. */
export async function readRecipe(directory: string): Promise<Recipe> {
  const file = join(directory, 'recipe.yaml');
  return parseRecipe(await readFile(file, 'utf8'), file);
}

/** All recipes below a directory, by name. Two recipes may not share a name or an alias. */
export async function readRecipes(directory: string): Promise<Map<string, Recipe>> {
  let entries: string[];
  try {
    entries = (await readdir(directory)).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return new Map();
    throw error;
  }
  const recipes = new Map<string, Recipe>();
  const taken = new Set<string>();
  for (const entry of entries) {
    let recipe: Recipe;
    try {
      recipe = await readRecipe(join(directory, entry));
    } catch (error) {
      // A folder without a recipe, or a file such as a README.
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') continue;
      throw error;
    }
    for (const name of [recipe.name, ...recipe.aliases]) {
      if (taken.has(name)) throw new CarrelError('validation_failed', `two recipes are called ${name}`);
      taken.add(name);
    }
    recipes.set(recipe.name, recipe);
  }
  return recipes;
}
