/** Colours, on terminals only, and never where NO_COLOR is set (https://no-color.org). */

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, blue: 34, cyan: 36 } as const;
export type Colour = keyof typeof codes;
export type Paint = (colour: Colour, text: string) => string;

export function createPaint(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): Paint {
  const on = stream.isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
  return (colour, text) => (on ? `\u001B[${codes[colour]}m${text}\u001B[0m` : text);
}

/** How each word for a state looks, everywhere. */
const stateColours: Readonly<Record<string, Colour>> = {
  ok: 'green',
  running: 'green',
  ready: 'green',
  done: 'green',
  passed: 'green',
  graded: 'green',
  proven: 'green',
  degraded: 'yellow',
  partial: 'yellow',
  paused: 'yellow',
  asleep: 'dim',
  queued: 'yellow',
  building: 'yellow',
  unproven: 'yellow',
  missing: 'red',
  failed: 'red',
  error: 'red',
  unavailable: 'red',
  stopped: 'dim',
  cancelled: 'dim',
  none: 'dim',
  skipped: 'dim',
};

/** A state's word in its colour. */
export function paintState(paint: Paint, state: string): string {
  const colour = stateColours[state];
  return colour ? paint(colour, state) : state;
}

// Everything that a terminal would obey rather than show: C0 and C1 controls, and direction overrides.
// oxlint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u202A-\u202E\u2066-\u2069]/g;

/** Text from elsewhere (a student's output, a reason) made safe to print: control characters become visible. */
export function printable(text: string): string {
  return text.replace(
    unsafe,
    (character) => `\\x${(character.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`,
  );
}

// Our own colour codes: they begin with ESC, so the pattern has to.
// oxlint-disable-next-line no-control-regex
const escapes = /\u001B\[[0-9;]*m/g;

/** Columns that `text` takes: without colours; wide characters count as two. */
export function widthOf(text: string): number {
  let width = 0;
  for (const character of text.replace(escapes, '')) {
    const point = character.codePointAt(0) ?? 0;
    if (/\p{Mn}/u.test(character)) continue;
    width +=
      point >= 0x1100 &&
      /[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\p{Emoji_Presentation}]/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return width;
}
