/** What a driver offers that can start machines from a booted one: facts and files, no database. */
import type { Limits } from '#contract/schemas/machines.ts';

/** A machine that exists ahead of its owner: without a name, an address or keys. */
export interface EarlySpec {
  readonly id: string;
  readonly directory: string;
  /** Hash of its image. */
  readonly image: string;
  readonly limits: Limits;
  readonly uidSlot: number;
}

export interface ParkContext {
  readonly signal: AbortSignal;
  readonly step: (name: string) => void;
}

export interface ParkedFacts {
  /** What it holds of the host's disk. */
  readonly bytes: number;
  readonly lastUsedAt: Date;
}

export interface TemplateDriver {
  /**
   * Names the template that a machine of this image and these limits would be cloned from, whether there is one or
   * not. Another QEMU, another accelerator, another image: another name. `not_found` without the image.
   */
  keyOf(image: string, limits: Limits): Promise<string>;
  /** Boots the image once, parks the machine, and ends it. Repeatable; an older template of that key is replaced. */
  park(spec: EarlySpec, context: ParkContext): Promise<{ readonly bytes: number }>;
  /** The template of that key, if it is whole. */
  find(key: string): Promise<ParkedFacts | undefined>;
  /** Keys of all that are whole. */
  keys(): Promise<readonly string[]>;
  /** Machines that were made of it go on. Nothing happens if there is none. */
  remove(key: string): Promise<void>;
  /** Removes what is half made, but for the work of those in `making` (machine ids). */
  sweep(making: ReadonlySet<string>): Promise<void>;
  /** A clone, loaded and stopped before its first instruction. `not_found` when there is no template. */
  preload(spec: EarlySpec): Promise<void>;
  /** Is it loaded, and does it wait? */
  waits(spec: Pick<EarlySpec, 'id' | 'directory'>): Promise<boolean>;
}
