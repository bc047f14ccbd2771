/** The four modes by name. */
import { long } from './long.ts';
import type { Mode, ModeName } from './mode.ts';
import { paged } from './paged.ts';
import { protectedMode } from './protected.ts';
import { real } from './real.ts';

export const modes: Readonly<Record<ModeName, Mode>> = { real, protected: protectedMode, paged, long };
