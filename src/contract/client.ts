/**
 * The typed client: one method per operation of the contract. The CLI, the web and the tests use this and
 * nothing else.
 *
 * @example
 * const client = createClient({ base: 'http://127.0.0.1:7070', token });
 * const { items } = await client.listMachines({ params: {}, query: { state: 'running' } });
 */
import { CarrelError, errnoOf, errorCodes, messageOf, type ErrorCode } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { operations, type Api, type Operation } from './api.ts';
import type { ClientInput, Reply, Route } from './route.ts';
import { problem } from './schemas/common.ts';

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Sent as `Idempotency-Key`: the same key and body make the same thing once, for 24 hours. */
  readonly idempotencyKey?: string;
  /** Sent as `If-Match`: the write is refused with `etag_mismatch` if someone was faster. */
  readonly ifMatch?: string;
  /** Media type of a `bytes` body; the route's first type unless given. */
  readonly contentType?: string;
}

export type Client = {
  readonly [K in Operation]: (input: ClientInput<Api[K]>, options?: CallOptions) => Promise<Reply<Api[K]>>;
};

export interface ClientOptions {
  /** `http://127.0.0.1:7070`, without a trailing slash. */
  readonly base: string;
  readonly token?: string;
  /** For tests: answers requests without a network. */
  readonly fetch?: (request: Request) => Promise<Response>;
}

/** The parts of a call in the loosest form; each operation's own type has checked them already. */
interface LooseInput {
  readonly params?: unknown;
  readonly query?: unknown;
  readonly body?: unknown;
  readonly bytes?: Uint8Array | ReadableStream<Uint8Array>;
}

function entries(value: unknown): [string, unknown][] {
  return typeof value === 'object' && value !== null ? Object.entries(value) : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** The URL of a route with its parameters and query filled in. */
export function urlOf(base: string, route: Route, { params, query }: LooseInput): URL {
  const values = new Map(entries(params));
  const path = route.path.replace(/\{(\w+)\}/g, (_, key: string) =>
    encodeURIComponent(text(values.get(key))),
  );
  const url = new URL(base + path);
  for (const [key, value] of entries(query)) if (value !== undefined) url.searchParams.set(key, text(value));
  return url;
}

function isCode(code: string): code is ErrorCode {
  return code in errorCodes;
}

/** Turns an error answer into the error that the server meant. */
async function errorFrom(response: Response): Promise<CarrelError> {
  const parsed = problem.safeParse(await response.json().catch(() => undefined));
  if (!parsed.success)
    return new CarrelError('internal', `the server answered ${response.status} ${response.statusText}`);
  const { code, detail, hint, details } = parsed.data;
  return new CarrelError(isCode(code) ? code : 'internal', detail, {
    ...(hint !== undefined && { hint }),
    ...(details !== undefined && { details }),
  });
}

/** What the server would refuse anyway is not sent: it cuts a long upload off, and its answer is lost with that. */
function refuseTooLarge({ bytes }: Route, body: LooseInput['bytes']): void {
  if (!bytes || !(body instanceof Uint8Array) || body.length <= bytes.maxBytes) return;
  throw new CarrelError(
    'too_large',
    `${formatSize(body.length)} are more than the ${formatSize(bytes.maxBytes)} that are taken`,
  );
}

function unanswered({ base }: ClientOptions, { bytes }: Route, error: unknown): CarrelError {
  const cut = error instanceof Error && ['EPIPE', 'ECONNRESET'].includes(errnoOf(error.cause) ?? '');
  if (bytes && cut)
    return new CarrelError('unavailable', `${base} ended the connection during the upload`, {
      hint: `at most ${formatSize(bytes.maxBytes)} are taken`,
      cause: error,
    });
  return new CarrelError('unavailable', `no answer from ${base}: ${messageOf(error)}`, {
    hint: 'is the cloud up? carrel status',
    cause: error,
  });
}

async function call(
  options: ClientOptions,
  route: Route,
  input: LooseInput,
  more: CallOptions,
): Promise<unknown> {
  const headers = new Headers({ accept: route.replyBytes ?? 'application/json' });
  if (options.token) headers.set('authorization', `Bearer ${options.token}`);
  if (more.idempotencyKey) headers.set('idempotency-key', more.idempotencyKey);
  if (more.ifMatch) headers.set('if-match', more.ifMatch);
  let body: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | undefined;
  if (route.bytes) {
    refuseTooLarge(route, input.bytes);
    body = input.bytes instanceof Uint8Array ? new Uint8Array(input.bytes) : input.bytes;
    headers.set('content-type', more.contentType ?? route.bytes.types[0] ?? 'application/octet-stream');
  } else if (route.body) {
    body = JSON.stringify(input.body ?? {});
    headers.set('content-type', 'application/json');
  }
  const request = new Request(urlOf(options.base, route, input), {
    method: route.method,
    headers,
    ...(body !== undefined && { body, duplex: 'half' as const }),
    ...(more.signal && { signal: more.signal }),
  });
  const response = await (options.fetch ?? fetch)(request).catch((error: unknown) => {
    if (more.signal?.aborted) throw error;
    throw unanswered(options, route, error);
  });
  if (!response.ok) throw await errorFrom(response);
  if (route.replyBytes) return response.body ?? new Uint8Array();
  if (!route.reply) return undefined;
  const reply = route.reply.safeParse(await response.json());
  if (reply.success) return reply.data;
  const [issue] = reply.error.issues;
  throw new CarrelError(
    'internal',
    `${options.base} answers ${route.method} ${route.path} in a way that is not known here: ${issue?.path.join('.')}: ${issue?.message}`,
    { hint: 'is it of another version? start it anew: carrel down, then carrel up', cause: reply.error },
  );
}

/** A client of the cloud at `base`. */
export function createClient(options: ClientOptions): Client {
  const methods = operations.map(
    ([name, route]) =>
      [name, (input: LooseInput, more: CallOptions = {}) => call(options, route, input, more)] as const,
  );
  // The one place where the table's loose functions take on the types that `Api` computes for them.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return Object.fromEntries(methods) as unknown as Client;
}
