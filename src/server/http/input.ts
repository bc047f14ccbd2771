/** A request's parts, read within the route's limits and parsed by its schemas. */
import { CarrelError } from '#base/errors.ts';
import type { Route } from '#contract/route.ts';
import { checkDeclaredLength, limitStream, mediaTypeOf, readAll } from './body.ts';
import { parseJson } from './json.ts';
import { check, parseQuery } from './parse.ts';

/** JSON bodies are small; a route that needs more says so. */
const DEFAULT_JSON_BYTES = 2 ** 20;

export interface RawInput {
  readonly params: Readonly<Record<string, string>>;
  readonly query?: unknown;
  readonly body?: unknown;
  readonly bytes?: ReadableStream<Uint8Array>;
}

export interface Read {
  readonly input: RawInput;
  /** The body as it came, if it was read whole; else empty. */
  readonly bytes: Uint8Array;
  readonly mediaType: string | undefined;
}

const nothing = new Uint8Array();

function hasBody(request: Request): boolean {
  const length = request.headers.get('content-length');
  return (length !== null && length !== '0') || request.headers.has('transfer-encoding');
}

function queryOf(route: Route, url: string): { readonly query?: unknown } {
  const mark = url.indexOf('?');
  const query = mark < 0 ? {} : parseQuery(url.slice(mark + 1));
  if (route.query) return { query: check(route.query, query, 'query') };
  const [unknown] = Object.keys(query);
  if (unknown !== undefined)
    throw new CarrelError('validation_failed', `${unknown.slice(0, 80)}: unknown field`, {
      details: { where: 'query', issues: [{ path: unknown.slice(0, 80), message: 'unknown field' }] },
    });
  return {};
}

/** Reads what the route takes. With `whole`, a body of bytes is read whole too (it is needed for its hash). */
export async function readInput(
  route: Route,
  request: Request,
  params: Readonly<Record<string, string>>,
  whole: boolean,
): Promise<Read> {
  const { headers } = request;
  const query = queryOf(route, request.url);
  const mediaType = mediaTypeOf(headers.get('content-type') ?? undefined);
  if (!hasBody(request)) return readNothing(route, { params, ...query }, mediaType);
  const maxBytes = route.bytes?.maxBytes ?? route.maxBodyBytes ?? DEFAULT_JSON_BYTES;
  checkDeclaredLength(headers.get('content-length') ?? undefined, maxBytes);
  if (route.bytes) {
    requireType(mediaType, route.bytes.types);
    const { body } = request;
    if (!body) return readNothing(route, { params, ...query }, mediaType);
    if (!whole)
      return {
        input: { params, ...query, bytes: limitStream(body, { maxBytes }) },
        bytes: nothing,
        mediaType,
      };
    const bytes = await readAll(body, maxBytes);
    return { input: { params, ...query, bytes: streamOf(bytes) }, bytes, mediaType };
  }
  if (!route.body) throw new CarrelError('validation_failed', 'this operation takes no body');
  requireType(mediaType, ['application/json']);
  const bytes = await readAll(request.body, maxBytes);
  const body = check(route.body, parseJson(bytes), 'body');
  return { input: { params, ...query, body }, bytes, mediaType };
}

/** A missing JSON body is an empty object: an operation whose fields all have defaults needs none. */
function readNothing(route: Route, input: RawInput, mediaType: string | undefined): Read {
  if (route.bytes) {
    requireType(mediaType, route.bytes.types);
    return { input: { ...input, bytes: streamOf(nothing) }, bytes: nothing, mediaType };
  }
  if (!route.body) return { input, bytes: nothing, mediaType };
  return { input: { ...input, body: check(route.body, {}, 'body') }, bytes: nothing, mediaType };
}

function requireType(mediaType: string | undefined, types: readonly string[]): void {
  if (mediaType !== undefined && types.includes(mediaType)) return;
  throw new CarrelError('unsupported_media_type', `the body must be ${types.join(' or ')}`, {
    hint: 'say what it is in Content-Type; it is never guessed',
    details: { types },
  });
}

function streamOf(bytes: Uint8Array): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    start(controller) {
      if (bytes.length > 0) controller.enqueue(bytes);
      controller.close();
    },
  });
}
