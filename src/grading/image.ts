/** The image that a lab is made of. */
import { CarrelError } from '#base/errors.ts';
import type { Image } from '#images/layout.ts';
import type { ImageKind } from '#images/recipe.ts';
import type { Images } from '#images/store.ts';
import type { LabDefinition } from './format/lab.ts';

export const imageKindOf = ({ run, machine }: Pick<LabDefinition, 'run' | 'machine'>): ImageKind =>
  run === 'machine' && machine.driver === 'qemu' ? 'disk' : 'rootfs';

const otherKind: Readonly<Record<ImageKind, string>> = {
  disk: 'is no disk, and a virtual machine needs one, such as tiny or debian-12-disk',
  guest: 'is a guest of the hypervisor, and a lab is made of a root file system or a disk',
  rootfs:
    'is the disk of a virtual machine: say "run: machine" and "machine: { driver: qemu }", or choose another one',
};

/**
 * The lab's image as it is, built if there is only a recipe. `lab_invalid`: it is of the wrong kind, or submitted files
 * could not be placed in it; `not_found`: there is none.
 */
export async function imageOfLab(
  images: Pick<Images, 'find' | 'findRecipe' | 'ensure'>,
  lab: Pick<LabDefinition, 'image' | 'run' | 'machine'>,
): Promise<Image> {
  const kind = imageKindOf(lab);
  const known = (await images.find(lab.image, { kind })) ?? (await images.findRecipe(lab.image, { kind }));
  if (!known && ((await images.find(lab.image)) ?? (await images.findRecipe(lab.image))))
    throw new CarrelError('lab_invalid', `image ${lab.image} ${otherKind[kind]}`);
  const image = await images.ensure(lab.image, { kind });
  if (kind === 'disk' && image.disk?.agent !== true)
    throw new CarrelError(
      'lab_invalid',
      `image ${lab.image} has no agent, so no submitted file could be placed in its machines`,
      { hint: 'choose tiny, debian-12-disk, or another image with Carrel’s agent' },
    );
  return image;
}
