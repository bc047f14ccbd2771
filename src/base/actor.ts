/** Who asks: an account that has proved itself, as every service receives it. */
export interface Actor {
  /** User id. */
  readonly id: string;
  readonly name: string;
  readonly admin: boolean;
}

/** What a request carries along for the record. */
export interface RequestInfo {
  readonly requestId?: string | undefined;
}

/** Nobody: the actor of public routes when no token came along. */
export const anonymous: Actor = Object.freeze({ id: '', name: '', admin: false });
