/**
 * The telnet protocol as far as a console needs it (RFC 854, 855; ECHO RFC 857, SUPPRESS-GO-AHEAD RFC 858,
 * NAWS RFC 1073): we echo and send character by character, the client may tell the size of its window, and
 * every other option is refused. Commands never reach the machine; a byte 255 travels doubled.
 */
const IAC = 255;
const DONT = 254;
const DO = 253;
const WONT = 252;
const WILL = 251;
const SB = 250;
const SE = 240;
const BRK = 243;
const IP = 244;
const AYT = 246;

const ECHO = 1;
const SUPPRESS_GO_AHEAD = 3;
const NAWS = 31;

const CR = 13;
const LF = 10;

/** What is said at the beginning. */
export const greeting: Uint8Array = Uint8Array.from(
  [
    [IAC, WILL, ECHO],
    [IAC, WILL, SUPPRESS_GO_AHEAD],
    [IAC, DO, SUPPRESS_GO_AHEAD],
    [IAC, DO, NAWS],
  ].flat(),
);

/** More than any option that we asked for can hold: the rest of it is thrown away. */
const maxSubnegotiation = 64;

export interface Decoded {
  /** What was typed. */
  readonly input: Uint8Array;
  /** To be sent back to the client. */
  readonly reply: Uint8Array;
  /** The window, if the client told of it. */
  readonly size: { readonly rows: number; readonly columns: number } | undefined;
}

type State = 'data' | 'cr' | 'iac' | 'option' | 'sub' | 'sub-iac';

/** Takes what the client sends, in pieces of any length; holds at most one unfinished command. */
export function createDecoder(): (chunk: Uint8Array) => Decoded {
  let state: State = 'data';
  let command = 0;
  let sub: number[] = [];
  /** What we have agreed to or asked for: an answer to it needs no answer of ours (RFC 1143). */
  const ours = new Set([ECHO, SUPPRESS_GO_AHEAD]);
  const theirs = new Set([SUPPRESS_GO_AHEAD, NAWS]);

  return (chunk) => {
    const input: number[] = [];
    const reply: number[] = [];
    let size: Decoded['size'];

    const negotiate = (option: number): void => {
      if (command === DO && !ours.has(option)) reply.push(IAC, WONT, option);
      else if (command === WILL && !theirs.has(option)) reply.push(IAC, DONT, option);
    };
    const take = (byte: number): void => {
      switch (state) {
        case 'cr':
          state = 'data';
          // Enter is CR LF or CR NUL: to a terminal it is CR
          if (byte === LF || byte === 0) return;
          take(byte);
          return;
        case 'data':
          if (byte === IAC) state = 'iac';
          else {
            if (byte === CR) state = 'cr';
            input.push(byte);
          }
          return;
        case 'iac':
          state = 'data';
          if (byte === IAC) input.push(IAC);
          else if (byte >= WILL) {
            command = byte;
            state = 'option';
          } else if (byte === SB) {
            sub = [];
            state = 'sub';
          } else if (byte === IP || byte === BRK) input.push(3); // Ctrl-C
          else if (byte === AYT) reply.push(...Buffer.from('\r\n[yes]\r\n'));
          return;
        case 'option':
          state = 'data';
          negotiate(byte);
          return;
        case 'sub':
          if (byte === IAC) state = 'sub-iac';
          else if (sub.length < maxSubnegotiation) sub.push(byte);
          return;
        case 'sub-iac':
          if (byte === SE) {
            state = 'data';
            size = sizeOf(sub) ?? size;
          } else {
            state = 'sub';
            if (byte === IAC && sub.length < maxSubnegotiation) sub.push(IAC);
          }
          return;
        default:
          state satisfies never;
      }
    };
    for (const byte of chunk) take(byte);
    return { input: Uint8Array.from(input), reply: Uint8Array.from(reply), size };
  };
}

/** NAWS: two numbers of 16 bits, columns first. */
function sizeOf([option, ...rest]: readonly number[]): Decoded['size'] {
  const [a, b, c, d] = rest;
  if (option !== NAWS || a === undefined || b === undefined || c === undefined || d === undefined)
    return undefined;
  const columns = a * 256 + b;
  const rows = c * 256 + d;
  return rows >= 1 && rows <= 1000 && columns >= 1 && columns <= 1000 ? { rows, columns } : undefined;
}

/** Output on its way to the client. */
export function encodeOutput(bytes: Uint8Array): Uint8Array {
  const count = bytes.reduce((sum, byte) => (byte === IAC ? sum + 1 : sum), 0);
  if (count === 0) return bytes;
  const encoded = new Uint8Array(bytes.length + count);
  let at = 0;
  for (const byte of bytes) {
    encoded[at++] = byte;
    if (byte === IAC) encoded[at++] = IAC;
  }
  return encoded;
}
