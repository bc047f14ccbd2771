/** Who asks. */
import type { Actor } from '#machines/actor.ts';

export type { Actor } from '#machines/actor.ts';

/** Nobody: the actor of public routes when no token came along. */
export const anonymous: Actor = Object.freeze({ id: '', name: '', admin: false });
