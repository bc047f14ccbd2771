/** Who asks. Accounts belong to the server; machines only need to know who may see and touch what. */

export interface Actor {
  /** User id. */
  readonly id: string;
  readonly name: string;
  readonly admin: boolean;
}

/** What every request carries along for the record. */
export interface RequestInfo {
  readonly requestId?: string | undefined;
}
