/**
 * A route as data. The server, the OpenAPI document, the typed client, the CLI and the access tests are all
 * derived from values of this type; nothing about the HTTP API is written anywhere else.
 */
import type { z } from 'zod';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/**
 * Who may call a route. One function in the server decides, from this word and the object that the path
 * names; an object that the caller may not even know of answers 404, one that he may see but not touch 403.
 *
 * - `public`: anyone · `user`: anyone signed in · `admin`: the cloud's administrators
 * - `course:member|staff|instructor`: a role in the course of `{course}` or of `{lab}`
 * - `submission:read`: its author, or staff of its course · `submission:staff`: staff of its course
 * - `machine:use`: its owner, or staff of its course
 * - `job:read`: its requester, or staff of the course it belongs to
 *
 * Administrators may do everything.
 */
export type Access =
  | 'public'
  | 'user'
  | 'admin'
  | 'course:member'
  | 'course:staff'
  | 'course:instructor'
  | 'submission:read'
  | 'submission:staff'
  | 'machine:use'
  | 'job:read';

/** A body or reply that is bytes, not JSON. */
export interface Bytes {
  /** Media types, the first one being the default. */
  readonly types: readonly string[];
  /** The largest accepted body, in bytes; more is refused with `too_large` while it arrives. */
  readonly maxBytes: number;
}

export interface Route {
  readonly method: Method;
  /** With `{name}` for parameters: `/v1/machines/{machine}`. */
  readonly path: string;
  /** One sentence for people; the OpenAPI summary. */
  readonly doc: string;
  readonly access: Access;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  /** The largest JSON body, in bytes; 1 MiB unless given. */
  readonly maxBodyBytes?: number;
  readonly bytes?: Bytes;
  readonly reply?: z.ZodType;
  readonly replyBytes?: string;
  /** The success status; 200 unless given. 202 answers carry `Location: /v1/jobs/{id}`. */
  readonly status?: 200 | 201 | 202 | 204;
  /** Answers with an ETag, and (for writes) honours If-Match. */
  readonly etag?: true;
  /** A write that honours If-Match with the ETag of what its path names. Every other write refuses that header. */
  readonly conditional?: true;
  /** A write that honours `Idempotency-Key`. */
  readonly idempotent?: true;
  /** The connection becomes a WebSocket (see stream.ts for what is spoken on it). */
  readonly websocket?: true;
}

/** Whether a request may say which version of the object it means. */
export function takesIfMatch({ method, etag, conditional }: Route): boolean {
  return conditional === true || (etag === true && method !== 'GET');
}

export type PathParams<P extends string> = P extends `${string}{${infer Name}}${infer Rest}`
  ? { readonly [K in Name]: string } & PathParams<Rest>
  : unknown;

type Part<R, K extends string, Side extends 'input' | 'output'> =
  R extends Readonly<Record<K, infer S extends z.ZodType>>
    ? Readonly<Record<K, Side extends 'input' ? z.input<S> : z.output<S>>>
    : unknown;

type QueryPart<R, Side extends 'input' | 'output'> =
  R extends Readonly<Record<'query', infer S extends z.ZodType>>
    ? Side extends 'input'
      ? { readonly query?: z.input<S> }
      : { readonly query: z.output<S> }
    : unknown;

type BytesPart<R, B> = R extends { readonly bytes: Bytes } ? { readonly bytes: B } : unknown;

/** What a client gives. */
export type ClientInput<R extends Route> = { readonly params: PathParams<R['path']> } & QueryPart<
  R,
  'input'
> &
  Part<R, 'body', 'input'> &
  BytesPart<R, Uint8Array | ReadableStream<Uint8Array>>;

/** What a handler receives, parsed. */
export type HandlerInput<R extends Route> = { readonly params: PathParams<R['path']> } & QueryPart<
  R,
  'output'
> &
  Part<R, 'body', 'output'> &
  BytesPart<R, ReadableStream<Uint8Array>>;

/** What a handler returns, and a client receives. */
export type Reply<R extends Route> = R extends { readonly reply: infer S extends z.ZodType }
  ? z.output<S>
  : R extends { readonly replyBytes: string }
    ? Uint8Array | ReadableStream<Uint8Array>
    : undefined;
