/** Who asks: an account that has proved itself, as every service receives it. */
export interface Actor {
  readonly id: string;
  readonly name: string;
  readonly admin: boolean;
}
