/** Bytes of strangers as text for people: bounded, printable, one line where a line is asked for. */

/** Cuts at `max` characters, saying so. Half a character (a lone surrogate) becomes U+FFFD: databases refuse it. */
export function cut(text: string, max: number): string {
  return (text.length <= max ? text : `${text.slice(0, max)}...`).toWellFormed();
}

/** A quotation for a reason: control characters escaped, cut. */
export function quote(text: string, max = 80): string {
  return JSON.stringify(cut(text, max)).replaceAll(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** One line without control characters, for a reason made of foreign words. */
export function oneLine(text: string, max = 300): string {
  return cut(text.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]+/gu, ' ').trim(), max);
}

/** What a program printed, for showing: UTF-8 with replacements, NUL and other controls but newline and tab removed. */
export function printable(bytes: Uint8Array | undefined, max = 4096): string {
  if (bytes === undefined || bytes.length === 0) return '';
  const text = Buffer.from(bytes.subarray(0, max)).toString('utf8');
  const clean = text.replaceAll(/[^\P{Cc}\n\t]/gu, '\uFFFD');
  return bytes.length > max ? `${clean}\n[cut after ${max} of ${bytes.length} bytes]` : clean;
}
