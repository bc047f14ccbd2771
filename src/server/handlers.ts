/**
 * The seam between the HTTP side and the services: one function per operation of the contract.
 *
 * `Handlers` demands every operation there is, so a route without a handler does not compile. A handler gets
 * parsed input; the ids in `params` have been resolved and allowed by auth/access.ts (names have become ids).
 */
import type { WebSocket } from 'ws';
import type { Api } from '#contract/api.ts';
import type { HandlerInput, Reply, Route } from '#contract/route.ts';
import type { Actor } from '#base/actor.ts';
import type { Answer } from './http/answer.ts';
import type { Role } from '#contract/schemas/people.ts';

/** What a handler knows of the request beside its input. */
export interface Call {
  /** Who asks; on public routes possibly nobody (`anonymous`). */
  readonly actor: Actor;
  /** Goes into job rows and log lines. */
  readonly requestId: string;
  /** Aborts when the client is gone or the daemon shuts down. */
  readonly signal: AbortSignal;
  /** The caller's role in the course that the path leads to; null without one. */
  readonly role: Role | null;
  /** The course that the path leads to, if any. */
  readonly courseId: string | null;
  /** `If-Match`, unparsed: see requireMatch in http/etag.ts. */
  readonly ifMatch: string | undefined;
  /** `Last-Event-ID`, for event streams. */
  readonly lastEventId: string | undefined;
  /** The media type of the body, without parameters. */
  readonly mediaType: string | undefined;
}

/** What a WebSocket operation gives: run once the connection has been upgraded. */
export type Attachment = (socket: WebSocket) => void;

export type Handler<R extends Route> = R extends { readonly websocket: true }
  ? (input: HandlerInput<R>, call: Call) => Promise<Attachment>
  : (input: HandlerInput<R>, call: Call) => Promise<Reply<R> | Answer<Reply<R>>>;

/** Handlers for a group of routes (`HandlersFor<typeof courseRoutes>`). */
export type HandlersFor<Routes extends Readonly<Record<string, Route>>> = {
  readonly [K in keyof Routes]: Handler<Routes[K]>;
};

export type Handlers = HandlersFor<Api>;
