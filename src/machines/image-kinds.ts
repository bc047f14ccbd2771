import type { DriverName } from '#contract/schemas/machines.ts';
import type { ImageKind } from '#images/recipe.ts';

/** Which kind of image each kind of machine is made of. */
export const imageKindOf: Readonly<Record<DriverName, ImageKind>> = {
  container: 'rootfs',
  qemu: 'disk',
  micro: 'guest',
};
