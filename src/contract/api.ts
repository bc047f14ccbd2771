/** The API: every route there is, in one value. */
import { z } from 'zod';
import type { Route } from './route.ts';
import { courseRoutes } from './routes/courses.ts';
import { labRoutes } from './routes/labs.ts';
import { machineRoutes } from './routes/machines.ts';
import { networkRoutes } from './routes/networks.ts';
import { peopleRoutes } from './routes/people.ts';
import { reachRoutes } from './routes/reach.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { systemRoutes } from './routes/system.ts';
import { templateRoutes } from './routes/templates.ts';

export const api = {
  ...systemRoutes,
  ...peopleRoutes,
  ...courseRoutes,
  ...labRoutes,
  ...machineRoutes,
  ...snapshotRoutes,
  ...networkRoutes,
  ...reachRoutes,
  ...templateRoutes,
} as const satisfies Record<string, Route>;

export type Api = typeof api;
export type Operation = keyof Api;

/** The operations in a fixed order, for documents, routers and tests. */
export const operations: readonly (readonly [Operation, Route])[] = z
  .array(z.custom<Operation>((key) => typeof key === 'string' && key in api))
  .parse(Object.keys(api))
  .map((name) => [name, api[name]] as const);
