/**
 * A recipe says how an image is made, as data: a base, then steps out of a small closed vocabulary.
 * It is parsed once, here; an unknown field is refused. Nothing in it is ever given to a shell.
 */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { parseSize } from '#base/units.ts';
import { safeRelativePath } from './archive/paths.ts';

/** What an image can be: a directory to be used as `/`, the disk of a virtual machine, or a guest of our hypervisor. */
export const imageKinds = ['rootfs', 'disk', 'guest'] as const;
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

const moduleName = z.string().regex(/^[a-z0-9][a-z0-9_-]*$/, 'must be the name of a kernel module');

/** A folder below the directory of recipes. */
const folder = z.string().transform((text, context) => {
  try {
    return safeRelativePath(text, { code: 'validation_failed' });
  } catch (error) {
    context.addIssue(messageOf(error));
    return z.NEVER;
  }
});

/** The facts that a machine has for itself; see the step `per_machine`. */
export const machineFacts = [
  'host-name',
  'machine-id',
  'ssh-host-keys',
  'authorized-keys',
  'root-password',
  'random-seed',
  'network',
] as const;
export type MachineFact = (typeof machineFacts)[number];

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
  /**
   * A folder of files beside the recipes goes over the root: executable ones as 0755, the others as 0644, all
   * root's. `from` is below the directory of recipes, so that two recipes may share a folder.
   */
  z.strictObject({ do: z.literal('copy_files'), from: folder }),
  /** Carrel's own agent, at /usr/lib/carrel/agent: answers the host on a virtio port of the machine. */
  z.strictObject({ do: z.literal('agent') }),
  /**
   * What two machines must never share: the image is left without it, and each machine gets its own from the
   * seed, at its first boot (a second RAM disk behind the image's), or from the agent when it is a clone.
   */
  z.strictObject({ do: z.literal('per_machine'), facts: z.array(z.enum(machineFacts)).min(1) }),
  /** In the machine, booted from the finished disk, as root at its console. For what cannot be done from outside. */
  z.strictObject({
    do: z.literal('online'),
    argv: z.array(argument).min(1),
    seconds: z.int().min(1).max(3600).default(60),
  }),
]);

/** What makes a root directory a disk. */
const disk = z.strictObject({
  /** Smallest disk of a machine; its root grows to whatever the machine is given. */
  size: z.string().transform((text, context) => {
    try {
      const bytes = parseSize(text);
      if (bytes % 2 ** 20 === 0 && bytes >= 16 * 2 ** 20 && bytes <= 64 * 2 ** 30) return bytes;
      context.addIssue('must be whole MiB, from 16M to 64G');
    } catch (error) {
      context.addIssue(messageOf(error));
    }
    return z.NEVER;
  }),
  /** A package that depends on a kernel, or is one. */
  kernel: packageName,
  /** Modules that the machine can load, by name, with what they need; `all` of the package. */
  modules: z.union([z.literal('all'), z.array(moduleName)]),
  /** Kernel command line, for both ways to boot (Documentation/admin-guide/kernel-parameters.rst). */
  append: z
    .string()
    .max(1000)
    .regex(/^[\w.,:=/+@%-]+( [\w.,:=/+@%-]+)*$/, 'must be words between single spaces'),
});

const base = z.discriminatedUnion('from', [
  /** The host's static busybox, and a link for each of its commands. */
  z.strictObject({ from: z.literal('busybox') }),
  /** mmdebstrap(1), from the mirrors the host itself uses. */
  z.strictObject({
    from: z.literal('mmdebstrap'),
    suite: suiteName,
    /** `extract` unpacks the packages and what they need, and runs nothing of them. */
    variant: z
      .enum(['extract', 'essential', 'apt', 'minbase', 'required', 'important', 'standard'])
      .default('minbase'),
    components: z.array(suiteName).min(1).default(['main']),
    /** Paths that dpkg does not unpack (dpkg(1), --path-exclude). */
    exclude: z.array(path).default([]),
  }),
]);

const recipeSchema = z.strictObject({
  name: imageName,
  kind: z.enum(['rootfs', 'disk']),
  aliases: z.array(imageName).default([]),
  description: z.string().max(500),
  base,
  steps: z.array(step).default([]),
  /** For `kind: disk`, and only there. */
  disk: disk.optional(),
});

export type Recipe = z.output<typeof recipeSchema>;
export type RecipeStep = z.output<typeof step>;
export type RecipeBase = z.output<typeof base>;
export type RecipeDisk = z.output<typeof disk>;

/** Steps that only a machine can have. */
const machineSteps: ReadonlySet<RecipeStep['do']> = new Set(['agent', 'online']);

/** What the shape alone does not say. */
function complaintAbout({ kind, base, steps, disk }: Recipe): string | undefined {
  if (base.from !== 'mmdebstrap' && steps.some((each) => each.do === 'packages'))
    return 'packages need the base mmdebstrap';
  if (kind === 'rootfs') {
    const step = steps.find((each) => machineSteps.has(each.do));
    if (step) return `the step ${step.do} is for disks`;
    return disk === undefined ? undefined : 'the part "disk" is for disks';
  }
  if (disk === undefined) return 'a disk needs a part "disk": size, kernel, modules, append';
  return base.from === 'mmdebstrap'
    ? undefined
    : 'a disk needs the base mmdebstrap: its kernel comes from there';
}

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
  const complaint = complaintAbout(result.data);
  if (complaint !== undefined) throw new CarrelError('validation_failed', `${where}: ${complaint}`);
  return result.data;
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
