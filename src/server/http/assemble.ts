/** The HTTP side with its own parts (auth, idempotency, rates) around given handlers. */
import type { Hono } from 'hono';
import { silent, type Logger } from '#base/log.ts';
import type { Store } from '#store/database.ts';
import { openAuthenticator, type Authenticator } from '../auth/authenticate.ts';
import type { Handlers } from '../handlers.ts';
import { createApp, type AppOptions, type Bindings } from './app.ts';
import { createIdempotency } from './idempotency.ts';
import { createRateLimiter, type RateOptions } from './rate.ts';

/** What is handed through to the application as it is. */
type Through = Pick<AppOptions, 'shutdown' | 'accessLog' | 'checkReplies' | 'recover'>;

export interface AssembleOptions extends Through {
  readonly store: Pick<Store, 'db' | 'listen'>;
  /** Made with the authenticator, for handlers that end tokens. */
  readonly handlers: (authenticator: Authenticator) => Handlers;
  readonly rate?: RateOptions;
  readonly log?: Logger;
}

/** The application, listening to announcements of ended tokens. */
export async function assembleApp({
  store,
  handlers,
  rate = {},
  log = silent,
  ...more
}: AssembleOptions): Promise<Hono<{ Bindings: Bindings }>> {
  const { db } = store;
  const authenticator = await openAuthenticator(store, log);
  return createApp({
    handlers: handlers(authenticator),
    db,
    authenticator,
    idempotency: createIdempotency({ db }),
    rate: createRateLimiter(rate),
    log,
    ...more,
  });
}
