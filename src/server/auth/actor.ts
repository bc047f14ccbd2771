/** Who asks. */
export interface Actor {
  /** User id. */
  readonly id: string;
  readonly name: string;
  readonly admin: boolean;
}

/** Nobody: the actor of public routes when no token came along. */
export const anonymous: Actor = Object.freeze({ id: '', name: '', admin: false });
