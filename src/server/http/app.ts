/**
 * The HTTP application, made from the contract: one Hono route per operation, compiled once.
 *
 * In order: request id, who (auth), how often (rate), may he (access), body and query (parsed strictly), the
 * handler, the answer. Access comes before the body, so a stranger learns nothing from validation, and nothing
 * that he sends is read.
 */
import { CarrelError } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { operations, type Operation } from '#contract/api.ts';
import { takesIfMatch, type Route } from '#contract/route.ts';
import type { Db } from '#store/schema.ts';
import type { IncomingMessage } from 'node:http';
import { Hono } from 'hono';
import { authorize } from '../auth/access.ts';
import { anonymous, type Actor } from '#base/actor.ts';
import { unauthenticated, type Authenticator } from '../auth/authenticate.ts';
import { secretOf, secretOfProtocols } from '../auth/secret.ts';
import type { Attachment, Call, Handlers } from '../handlers.ts';
import { accessLine, type AccessLog } from './access-log.ts';
import { checkKey, hashRequest, type Idempotency } from './idempotency.ts';
import { readInput, type RawInput } from './input.ts';
import { problemHeaders, problemOf, toCarrelError } from './problem.ts';
import type { RateLimiter } from './rate.ts';
import { keep, respond, respondKept, securityHeaders } from './reply.ts';
import { requestIdOf } from './request-id.ts';

/** What the Node side hands in beside the request. */
export interface Bindings {
  readonly incoming?: IncomingMessage;
  /** Set when the connection asks to become a WebSocket; the operation puts its attachment here. */
  readonly upgrade?: { attachment: Attachment | undefined };
}

export interface AppOptions {
  readonly handlers: Handlers;
  readonly db: Db;
  readonly authenticator: Authenticator;
  readonly idempotency: Idempotency;
  readonly rate: RateLimiter;
  /** Aborts when the daemon shuts down: long waits end. */
  readonly shutdown?: AbortSignal;
  readonly log?: Logger;
  readonly accessLog?: AccessLog;
  /** Parse every reply against the contract and fail if it differs: for tests. */
  readonly checkReplies?: boolean;
  /** Answers a replayed request whose daemon died between work and answer. */
  readonly recover?: (operation: Operation, actor: Actor, requestId: string) => Promise<unknown>;
}

/** A handler as the loop over the table sees it; each operation's own type has checked it already. */
type LooseHandler = (input: RawInput, call: Call) => Promise<unknown>;

interface Exchange {
  readonly request: Request;
  readonly env: Bindings;
  readonly requestId: string;
  actor: Actor;
  secret: string | undefined;
}

export function createApp(options: AppOptions): Hono<{ Bindings: Bindings }> {
  const { handlers, log = silent, accessLog, shutdown } = options;
  const app = new Hono<{ Bindings: Bindings }>();

  const answered = (exchange: Exchange, route: string, began: number, response: Response): Response => {
    accessLog?.(
      accessLine({
        method: exchange.request.method,
        route,
        status: response.status,
        ms: performance.now() - began,
        user: exchange.actor.name,
        requestId: exchange.requestId,
      }),
    );
    return response;
  };

  const refuse = ({ requestId, request, actor }: Exchange, thrown: unknown): Response => {
    const error = toCarrelError(thrown);
    const fields = { requestId, user: actor.name, method: request.method };
    // A mistake of ours is told with its stack; what passes by itself is only noted.
    if (error.code === 'internal') log.error(error.message, { ...fields, error: error.cause ?? error });
    else if (error.status >= 500) log.warn(error.message, { ...fields, code: error.code });
    return new Response(request.method === 'HEAD' ? null : JSON.stringify(problemOf(error, requestId)), {
      status: error.status,
      headers: { ...securityHeaders, ...problemHeaders(error), 'x-request-id': requestId },
    });
  };

  const exchangeOf = (request: Request, env: Bindings): Exchange => ({
    request,
    env,
    requestId: requestIdOf(request.headers.get('x-request-id') ?? undefined),
    actor: anonymous,
    secret: undefined,
  });

  /** Runs one exchange to its end: whatever is thrown becomes a problem, and a line is logged. */
  const conduct = async (
    request: Request,
    env: Bindings,
    route: string,
    work: (exchange: Exchange) => Promise<Response>,
  ): Promise<Response> => {
    const began = performance.now();
    const exchange = exchangeOf(request, env);
    try {
      return answered(exchange, route, began, await work(exchange));
    } catch (error) {
      return answered(exchange, route, began, refuse(exchange, error));
    }
  };

  for (const [operation, route] of operations) {
    // The table's own type has checked each handler; here they are all called the same way.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion
    const handler = handlers[operation] as unknown as LooseHandler;
    const serve = compile(operation, route, handler, options, shutdown);
    app.on(route.method, honoPath(route.path), (c) =>
      conduct(c.req.raw, c.env, route.path, (exchange) => serve(exchange, c.req.param())),
    );
  }
  for (const [path, methods] of methodsByPath())
    app.all(honoPath(path), (c) =>
      conduct(c.req.raw, c.env, path, async () => {
        const allow = methods.join(', ');
        throw new CarrelError('method_not_allowed', `${c.req.method.slice(0, 20)} is not possible here`, {
          hint: `possible: ${allow}`,
          details: { allow },
        });
      }),
    );
  app.notFound((c) =>
    conduct(c.req.raw, c.env, '(none)', async () => {
      throw new CarrelError('not_found', 'there is nothing at this path', {
        hint: 'see /openapi.json for what there is',
      });
    }),
  );
  return app;
}

function honoPath(path: string): string {
  return path.replace(/\{(\w+)\}/g, ':$1');
}

function methodsByPath(): Map<string, string[]> {
  const all = new Map<string, string[]>();
  for (const [, { path, method }] of operations) {
    const methods = all.get(path) ?? [];
    methods.push(...(method === 'GET' ? ['GET', 'HEAD'] : [method]));
    all.set(path, methods);
  }
  return all;
}

/** Everything about a route that can be decided once. */
function compile(
  operation: Operation,
  route: Route,
  handler: LooseHandler,
  { db, authenticator, rate, idempotency, checkReplies = false, recover }: AppOptions,
  shutdown: AbortSignal | undefined,
): (exchange: Exchange, params: Readonly<Record<string, string>>) => Promise<Response> {
  const reads = route.method === 'GET';
  const identify = async (exchange: Exchange): Promise<void> => {
    const { headers } = exchange.request;
    const secret =
      secretOf(headers.get('authorization') ?? undefined) ??
      (route.websocket ? secretOfProtocols(headers.get('sec-websocket-protocol') ?? undefined) : undefined);
    if (secret === undefined) {
      rate.take(`address ${exchange.env.incoming?.socket.remoteAddress ?? ''}`);
      if (route.access !== 'public') throw unauthenticated();
      return;
    }
    try {
      const { actor, tokenId } = await authenticator.identify(secret);
      exchange.actor = actor;
      exchange.secret = secret;
      rate.take(tokenId);
    } catch (error) {
      // Guessing is counted by address.
      if (error instanceof CarrelError && error.code === 'unauthenticated')
        rate.take(`address ${exchange.env.incoming?.socket.remoteAddress ?? ''}`);
      throw error;
    }
  };

  return async (exchange, rawParams) => {
    const { request, env, requestId } = exchange;
    await identify(exchange);
    if (route.websocket && !env.upgrade)
      throw new CarrelError('invalid_request', 'this is a WebSocket: connect with Upgrade: websocket');
    if (!route.websocket && env.upgrade)
      throw new CarrelError('invalid_request', 'this is not a WebSocket: ask without Upgrade');
    const { actor } = exchange;
    const ifMatch = request.headers.get('if-match') ?? undefined;
    if (ifMatch !== undefined && !reads && !takesIfMatch(route))
      throw new CarrelError('invalid_request', 'If-Match says nothing to this operation', {
        hint: 'the operations that take it name it in /openapi.json',
      });
    const granted = await authorize(db, actor, route, rawParams);
    const wantsOnce = route.idempotent ? (request.headers.get('idempotency-key') ?? undefined) : undefined;
    const { input, bytes, mediaType } = await readInput(
      route,
      request,
      granted.params,
      wantsOnce !== undefined,
    );
    const lasts = (route.websocket ?? route.replyBytes === 'text/event-stream') && request.method !== 'HEAD';
    const lasting = lasts ? holdConnection(exchange, authenticator, shutdown) : undefined;
    // A replay is found by the request id of its job: callers may repeat theirs, so it gets an ending of our own.
    const workId =
      wantsOnce === undefined ? requestId : `${requestId}.${requestIdOf(undefined).slice(1, 13)}`;
    const call: Call = {
      actor,
      requestId: workId,
      role: granted.role,
      courseId: granted.courseId,
      ifMatch,
      lastEventId: request.headers.get('last-event-id') ?? undefined,
      mediaType,
      get signal() {
        if (lasting) return lasting.signal;
        return shutdown ? AbortSignal.any([request.signal, shutdown]) : request.signal;
      },
    };
    const headers = { 'x-request-id': requestId };
    if (wantsOnce !== undefined) {
      const url = new URL(request.url);
      const { answer, replayed } = await idempotency.once(
        {
          userId: actor.id,
          key: checkKey(wantsOnce),
          bodyHash: hashRequest(route.method, url.pathname + url.search, bytes),
          requestId: workId,
        },
        async () => keep(route, await handler(input, call), checkReplies),
        async (firstId) => {
          const value = await recover?.(operation, actor, firstId);
          return value === undefined ? undefined : keep(route, value, checkReplies);
        },
      );
      return respondKept(answer, { ...headers, ...(replayed && { 'idempotency-replayed': 'true' }) });
    }
    const value = await handler(input, call).catch((error: unknown) => {
      lasting?.letGo();
      throw error;
    });
    if (env.upgrade) {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a websocket route's handler gives this
      env.upgrade.attachment = value as Attachment;
      return new Response(null, { status: 204, headers });
    }
    return respond(route, value, { request, headers, checkReplies });
  };
}

/** A connection that lasts ends when its token does. */
function holdConnection(
  { request, secret, actor }: Exchange,
  authenticator: Authenticator,
  shutdown: AbortSignal | undefined,
): { readonly signal: AbortSignal; letGo(): void } {
  const ended = new AbortController();
  const letGo = authenticator.hold(secret ?? '', actor.id, () => ended.abort(unauthenticated()));
  request.signal.addEventListener('abort', letGo, { once: true });
  const signal = AbortSignal.any([request.signal, ended.signal, ...(shutdown ? [shutdown] : [])]);
  return { signal, letGo };
}
