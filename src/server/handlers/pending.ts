/** Handlers for operations whose service is not in the tree yet: each answers with `host_unsupported`. */
import { CarrelError } from '#base/errors.ts';
import type { Route } from '#contract/route.ts';
import type { HandlersFor } from '../handlers.ts';

const refuse = async (): Promise<never> => {
  throw new CarrelError('host_unsupported', 'this operation is not served yet');
};

export function pendingHandlers<Routes extends Readonly<Record<string, Route>>>(
  routes: Routes,
): HandlersFor<Routes> {
  // Functions that only throw fit every handler's type; the compiler cannot see that through the mapped type.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return Object.fromEntries(
    Object.keys(routes).map((name) => [name, refuse]),
  ) as unknown as HandlersFor<Routes>;
}
