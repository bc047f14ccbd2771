/** Templates as the driver offers them: see machines/templates/driver.ts. */
import { mkdir } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import type { Kept } from '#isolate/kept.ts';
import type { MachineSpec } from '../../../driver.ts';
import type { TemplateDriver } from '../../../templates/driver.ts';
import type { DiskFiles } from '../disk/files.ts';
import { qemuUid } from '../spec.ts';
import { requireDiskImage } from '../start.ts';
import {
  adoptSpare,
  type CloneParts,
  couldBeClone,
  discardClone,
  isWaiting,
  phaseOf,
  preloadClone,
  startClone,
} from './clone.ts';
import type { TemplateFiles } from './files.ts';
import { parkTemplate, specOfNobody } from './park.ts';
import { keyOfMachine } from './qemu.ts';

export interface Templating extends TemplateDriver {
  /** What a machine that has never been started would be a copy of. */
  found(spec: MachineSpec, files: DiskFiles): Promise<TemplateFiles | undefined>;
  /**
   * The first start of a machine as a copy, where there is a template for it. undefined: there is none, or the machine
   * has been started before; a sentence: why it has to boot though there is one.
   */
  start(spec: MachineSpec, files: DiskFiles): Promise<Kept | string | undefined>;
  /**
   * Ends a copy that never got a name, unless it waits for one; a machine like any other is not touched. For who is about
   * to start the machine, and nobody else: it may be getting its name right now.
   */
  settle(place: Pick<MachineSpec, 'id' | 'directory'>): Promise<void>;
}

export function createTemplating(parts: CloneParts): Templating {
  const { store, memory } = parts;
  const keyOf: TemplateDriver['keyOf'] = async (image, limits) =>
    keyOfMachine(
      await requireDiskImage({ name: 'template', image }, parts),
      limits,
      await parts.acceleration(),
    );
  const templateFor = async ({
    image,
    limits,
  }: Pick<MachineSpec, 'image' | 'limits'>): Promise<TemplateFiles | undefined> =>
    store.find(await keyOf(image, limits));
  const found: Templating['found'] = async (spec, files) => {
    if (!(await couldBeClone(spec))) return undefined;
    const template = await templateFor(spec);
    return template && template.diskBytes <= files.bytes ? template : undefined;
  };
  return {
    keyOf,
    async park(spec, context) {
      const template = await parkTemplate(spec, parts, context);
      memory.drop(template.key); // of an older one of that name
      return { bytes: template.bytes };
    },
    async find(key) {
      const template = await store.find(key);
      return (
        template && {
          bytes: template.bytes,
          lastUsedAt: (await store.lastUsed(key)) ?? new Date(template.createdAt),
        }
      );
    },
    keys: () => store.keys(),
    async remove(key) {
      await store.remove(key);
      memory.drop(key);
    },
    async sweep(making) {
      await store.sweep(making);
    },
    async preload(early) {
      const template = await templateFor(early);
      if (!template) throw new CarrelError('not_found', 'there is no template that fits');
      const spec = specOfNobody(early, template.diskBytes);
      await mkdir(spec.directory, { recursive: true, mode: 0o700 });
      const { path } = await requireDiskImage(spec, parts);
      const files = { directory: spec.directory, uid: qemuUid(spec), bytes: template.diskBytes, image: path };
      await preloadClone(spec, files, template, parts);
    },
    waits: async (place) => isWaiting(place),
    found,
    async start(spec, files) {
      if (isWaiting(spec)) return adoptSpare(spec, files, parts);
      const template = await found(spec, files);
      return template && startClone(spec, files, template, parts);
    },
    async settle(place) {
      if (phaseOf(place.directory) !== undefined && !isWaiting(place)) await discardClone(place, parts);
    },
  };
}
