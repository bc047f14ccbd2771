/** The image that a lab is made of. */
import { CarrelError } from '#base/errors.ts';
import type { Image } from '#images/layout.ts';
import type { ImageKind } from '#images/recipe.ts';
import type { Images } from '#images/store.ts';
import { imageKindOf } from '#machines/image-kinds.ts';
import { requireQemu } from '#machines/drivers/qemu/installed.ts';
import type { LabDefinition } from './format/lab.ts';

/** A sandbox has the root file system that a container would have. */
const kindOfLab = ({ run, machine }: Pick<LabDefinition, 'run' | 'machine'>): ImageKind =>
  imageKindOf[run === 'machine' ? machine.driver : 'container'];

const otherKind: Readonly<Record<ImageKind, string>> = {
  disk: 'is no disk, and a virtual machine needs one, such as tiny or debian-12-disk',
  guest: 'is a guest of the hypervisor, and a lab is made of a root file system or a disk',
  rootfs:
    'is the disk of a virtual machine: say "run: machine" and "machine: { driver: qemu }", or choose another one',
};

type Place = Pick<LabDefinition, 'image' | 'run' | 'machine'>;

/** What can be told of the lab's image without building it. Gives its kind. */
async function requireKind(images: Pick<Images, 'find' | 'findRecipe'>, lab: Place): Promise<ImageKind> {
  const kind = kindOfLab(lab);
  const known = (await images.find(lab.image, { kind })) ?? (await images.findRecipe(lab.image, { kind }));
  if (!known && ((await images.find(lab.image)) ?? (await images.findRecipe(lab.image))))
    throw new CarrelError('lab_invalid', `image ${lab.image} ${otherKind[kind]}`);
  return kind;
}

function requireAgent({ disk }: Pick<Image, 'disk'>, { image }: Place): void {
  if (disk?.agent === true) return;
  throw new CarrelError(
    'lab_invalid',
    `image ${image} has no agent, so no submitted file could be placed in its machines`,
    { hint: 'choose tiny, debian-12-disk, or another image with Carrel’s agent' },
  );
}

/**
 * Refuses a lab that could not be graded here, before anybody works at it. `lab_invalid`: its image is not known, or of
 * the wrong kind, or has no agent; `host_unsupported`: its machines need QEMU, and there is none.
 */
export async function refuseImpossible(
  images: Pick<Images, 'find' | 'findRecipe'>,
  lab: Place,
  { qemu }: { readonly qemu?: string } = {},
): Promise<void> {
  const kind = await requireKind(images, lab);
  const image = await images.find(lab.image, { kind });
  if (!image && !(await images.findRecipe(lab.image, { kind })))
    throw new CarrelError('lab_invalid', `there is no image ${lab.image} here, which the lab is made of`, {
      hint: 'build or import it first, or choose another one: carrel image ls',
    });
  if (kind !== 'disk') return;
  if (image) requireAgent(image, lab);
  requireQemu(qemu);
}

/**
 * The lab's image as it is, built if there is only a recipe. `lab_invalid`: it is of the wrong kind, or submitted files
 * could not be placed in it; `not_found`: there is none.
 */
export async function imageOfLab(
  images: Pick<Images, 'find' | 'findRecipe' | 'ensure'>,
  lab: Place,
): Promise<Image> {
  const kind = await requireKind(images, lab);
  const image = await images.ensure(lab.image, { kind });
  if (kind === 'disk') requireAgent(image, lab);
  return image;
}
