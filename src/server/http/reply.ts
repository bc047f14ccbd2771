/** From what a handler returned to the answer on the wire. */
import { CarrelError } from '#base/errors.ts';
import type { Route } from '#contract/route.ts';
import { z } from 'zod';
import { Answer, type AnswerOptions } from './answer.ts';
import { namesEtag, quoteEtag } from './etag.ts';
import type { KeptAnswer } from './idempotency.ts';

/** On every answer. It is an API: nothing of it may be framed, sniffed, cached or linked from. */
export const securityHeaders: Readonly<Record<string, string>> = {
  'x-content-type-options': 'nosniff',
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
};

interface Parts extends AnswerOptions {
  /** JSON text; undefined for an answer without a body. */
  readonly json: string | undefined;
}

const accepted = z.object({ job: z.object({ id: z.string() }) });

/** The body as JSON text with its headers. `checkReplies` holds it against the contract. */
function partsOf(route: Route, value: unknown, checkReplies: boolean): Parts {
  const { body, options } = value instanceof Answer ? value : { body: { value }, options: {} };
  if (!route.reply) return { ...options, json: undefined };
  const json = 'json' in body ? body.json : JSON.stringify(body.value);
  if (checkReplies) {
    const checked = route.reply.safeParse(JSON.parse(json));
    if (!checked.success)
      throw new CarrelError('internal', `${route.method} ${route.path} answers against the contract`, {
        cause: new Error(z.prettifyError(checked.error)),
      });
  }
  if (route.status !== 202 || options.location !== undefined) return { ...options, json };
  const job = accepted.safeParse('json' in body ? JSON.parse(json) : body.value);
  return { ...options, json, ...(job.success && { location: `/v1/jobs/${job.data.job.id}` }) };
}

function headersOf(parts: Parts, more: Readonly<Record<string, string>>): Record<string, string> {
  const headers: Record<string, string> = { ...securityHeaders, ...more };
  if (parts.json !== undefined) headers['content-type'] = 'application/json';
  if (parts.etag !== undefined) headers['etag'] = quoteEtag(parts.etag);
  if (parts.location !== undefined) headers['location'] = parts.location;
  return headers;
}

export interface RespondOptions {
  readonly request: Request;
  readonly headers: Readonly<Record<string, string>>;
  readonly checkReplies: boolean;
}

/** The answer of an operation that succeeded. */
export function respond(
  route: Route,
  value: unknown,
  { request, headers: more, checkReplies }: RespondOptions,
): Response {
  const head = request.method === 'HEAD';
  if (route.replyBytes !== undefined) return respondBytes(route.replyBytes, value, more, head);
  const parts = partsOf(route, value, checkReplies);
  const headers = headersOf(parts, more);
  const known = request.headers.get('if-none-match');
  if (route.method === 'GET' && parts.etag !== undefined && known !== null && namesEtag(known, parts.etag))
    return new Response(null, { status: 304, headers });
  const status = route.status ?? (parts.json === undefined ? 204 : 200);
  return new Response(status === 204 || head ? null : (parts.json ?? null), { status, headers });
}

function respondBytes(
  type: string,
  value: unknown,
  more: Readonly<Record<string, string>>,
  head: boolean,
): Response {
  const headers: Record<string, string> = { ...securityHeaders, ...more, 'content-type': type };
  // Bytes come from machines and students: a browser may store them, never show them.
  if (type !== 'text/event-stream') headers['content-disposition'] = 'attachment';
  if (value instanceof ReadableStream) {
    if (!head) return new Response(value, { headers });
    // Nobody will read it: let go of what stands behind it.
    void value.cancel().catch(() => undefined);
    return new Response(null, { headers });
  }
  if (!(value instanceof Uint8Array)) throw new CarrelError('internal', 'the operation gave no bytes');
  return new Response(head ? null : new Uint8Array(value), { headers });
}

/** The answer in the form that is kept with an Idempotency-Key. */
export function keep(route: Route, value: unknown, checkReplies: boolean): KeptAnswer {
  const { json, etag, location } = partsOf(route, value, checkReplies);
  return {
    status: route.status ?? 200,
    body: json ?? '',
    ...(location !== undefined && { location }),
    ...(etag !== undefined && { etag: String(etag) }),
  };
}

export function respondKept(answer: KeptAnswer, more: Readonly<Record<string, string>>): Response {
  const { status, body, etag, location } = answer;
  const headers = headersOf(
    { json: body, ...(etag !== undefined && { etag }), ...(location !== undefined && { location }) },
    more,
  );
  return new Response(body, { status, headers });
}
