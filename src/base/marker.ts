/**
 * Words by which a program on a terminal is known to have come to a certain place. A marker is typed as two words
 * and printed as one: the echo of the line that asks for it never looks like it.
 */
import { randomBytes } from 'node:crypto';

export interface Marker {
  /** As words of a command line. */
  readonly words: string;
  /** As it is printed. */
  readonly text: string;
}

/** Never the same twice, so that nothing on the screen can be one by chance or by memory. */
export function makeMarker(): Marker {
  const [first, second] = [randomBytes(6).toString('hex'), randomBytes(6).toString('hex')];
  return { words: `Q${first} ${second}Q`, text: `Q${first}${second}Q` };
}
