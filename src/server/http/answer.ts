/** What a handler may return beside the bare value: headers of its own, or JSON text that is ready to send. */

export interface AnswerOptions {
  /** Without quotes; sent as a strong validator. */
  readonly etag?: string | number;
  /** Path of the new object, or of the job of a 202. */
  readonly location?: string;
}

/** A reply with headers. `T` is only there for the compiler: the contract's reply type. */
export class Answer<T> {
  readonly body: { readonly value: T } | { readonly json: string };
  readonly options: AnswerOptions;

  constructor(body: { readonly value: T } | { readonly json: string }, options: AnswerOptions) {
    this.body = body;
    this.options = options;
  }
}

/** @example return answer(course, { etag: row.etag }); */
export function answer<T>(value: T, options: AnswerOptions): Answer<T> {
  return new Answer<T>({ value }, options);
}

/**
 * JSON made elsewhere (by the database), sent as it is. The caller vouches for its shape; servers with
 * `checkReplies` parse and check it.
 */
export function jsonAnswer<T>(json: string, options: AnswerOptions = {}): Answer<T> {
  return new Answer<T>({ json }, options);
}
