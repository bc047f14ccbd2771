/**
 * What is typed into a shell on a serial console, and what comes back. Pure.
 *
 * Lines are short, because the simplest line editors take 1024 bytes and a terminal's queue 4096, and each is
 * acknowledged before the next one is sent.
 */
import { CarrelError } from '#base/errors.ts';
import type { Marker } from '#base/marker.ts';
import type { RunRequest } from '#contract/schemas/machines.ts';

/** How bytes get through the terminal: base64(1), or octal for printf(1) and od(1), which every system has. */
export type Coding = 'base64' | 'octal';

/** Asks a shell whether it is one. The answer is the marker and `1` or `0`: is base64 there? */
export function probeLine({ words }: Marker): string {
  return ` C=;B=0;command -v base64 >/dev/null 2>&1&&B=1;printf '%s%s%s\\n' ${words} $B`;
}

export function codingIn(text: string, { text: marker }: Marker): Coding | undefined {
  const at = text.indexOf(marker);
  const answer = at < 0 ? undefined : text[at + marker.length];
  return answer === '1' ? 'base64' : answer === '0' ? 'octal' : undefined;
}

const pieceLength = 300;

/** The script in pieces for the shell's variable C: harmless between double quotes. */
export function scriptPieces(script: string, coding: Coding): string[] {
  const bytes = Buffer.from(script);
  if (coding === 'base64')
    return bytes.toString('base64').match(new RegExp(`.{1,${pieceLength}}`, 'g')) ?? [];
  const perPiece = Math.floor(pieceLength / 5);
  return Array.from({ length: Math.ceil(bytes.length / perPiece) }, (_, i) =>
    [...bytes.subarray(i * perPiece, (i + 1) * perPiece)]
      .map((byte) => `\\\\0${byte.toString(8).padStart(3, '0')}`)
      .join(''),
  );
}

export function pieceLine(piece: string, { words }: Marker): string {
  return ` C="\${C}${piece}";printf '%s%s\\n' ${words}`;
}

/** A shell of its own reads the script, whatever shell is logged in. */
export function startLine(coding: Coding): string {
  return coding === 'base64' ? ' printf %s "$C"|base64 -d|sh' : ' printf %b "$C"|sh';
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The program itself; `loginUser` is who is logged in. */
function programScript({ argv, env, cwd, user }: RunRequest, loginUser: string): string {
  const variables = Object.entries(env).map(([name, value]) => `export ${name}=${quote(value)};`);
  const inner = `cd ${quote(cwd)}||exit 125;${variables.join('')}exec ${argv.map(quote).join(' ')}`;
  const asUser = user === loginUser ? inner : `exec su -s /bin/sh ${quote(user)} -c ${quote(inner)}`;
  if (asUser.includes('\0'))
    throw new CarrelError('invalid_request', 'a text for a program may not contain a NUL character');
  return asUser;
}

export interface RunMarkers {
  readonly begin: Marker;
  readonly end: Marker;
}

/**
 * Runs the program without a terminal, its output going to a file, so that neither what is typed meanwhile nor what it
 * leaves running gets in between; then shows the file between markers. Ctrl-C kills the program and all of its session.
 */
export function runScript(
  request: RunRequest,
  { begin, end }: RunMarkers,
  { coding, loginUser }: { coding: Coding; loginUser: string },
): string {
  const most = request.outputBytes;
  return `O=$(stty -g 2>/dev/null);stty -echo 2>/dev/null
P=;K=
trap 'K=1;[ -z "$P" ]||kill -9 -$P 2>/dev/null||kill -9 $P 2>/dev/null' INT QUIT
F=$(mktemp /tmp/.carrel.XXXXXX 2>/dev/null)||F=$(mktemp /dev/shm/.carrel.XXXXXX 2>/dev/null)||F=
if [ -n "$F" ];then
X=;command -v setsid >/dev/null 2>&1&&X=setsid
$X sh -c ${quote(programScript(request, loginUser))} </dev/null >"$F" 2>&1 &
P=$!
(while sleep 1;do [ "$(wc -c <"$F")" -le ${most} ]||kill -9 -$P||kill -9 $P;done) </dev/null >/dev/null 2>&1 &
W=$!
wait $P;R=$?
[ -z "$K" ]||{ wait $P;R=137; }
P=
kill -9 $W
N=$(($(wc -c <"$F")))
printf '\\n%s%s %s %s %s %s\\n' ${begin.words} $R $N $R $N
head -c ${most} "$F"|${coding === 'base64' ? 'base64' : 'od -An -v -tx1'}
rm -f "$F"
else printf '\\n%s%s 126 none 126 none\\n' ${begin.words}
fi 2>/dev/null
stty "$O" 2>/dev/null
printf '\\n%s%s\\n' ${end.words}
`;
}

export interface SerialResult {
  readonly status: number;
  readonly output: Buffer;
  /** Of the output before it was cut; `undefined`: the machine had no place to keep it. */
  readonly bytes: number | undefined;
}

const disturbed = (): CarrelError =>
  new CarrelError('helper_failed', 'the output of the program came damaged over the serial console', {
    hint: 'something else wrote on the console at that moment; try again',
  });

/**
 * What stands between the markers; undefined while the end has not come. `helper_failed` when it is damaged: the
 * figures come twice, and the output has the length that they say, up to `most`.
 */
export function resultIn(
  text: string,
  { begin, end }: RunMarkers,
  { coding, most }: { coding: Coding; most: number },
): SerialResult | undefined {
  const from = text.indexOf(`${begin.text} `);
  const to = text.indexOf(end.text, from + 1);
  if (from < 0 || to < 0) return undefined;
  const [head = '', ...lines] = text.slice(from + begin.text.length + 1, to).split(/[\r\n]+/);
  const figures = /^(\d{1,3}) (none|\d{1,15}) \1 \2$/.exec(head.trim());
  if (!figures) throw disturbed();
  const status = Number(figures[1]);
  if (figures[2] === 'none') return { status, output: Buffer.alloc(0), bytes: undefined };
  const bytes = Number(figures[2]);
  const output = coding === 'base64' ? fromBase64(lines) : fromHex(lines);
  if (output.length !== Math.min(bytes, most)) throw disturbed();
  return { status, output, bytes };
}

/** Whole lines of somebody else's (the kernel's) are left out; one within ours would change its length. */
function fromBase64(lines: readonly string[]): Buffer {
  const ours = lines.filter((line) => /^[A-Za-z0-9+/]+={0,2}$/.test(line));
  ours.forEach((line, i) => {
    if (i < ours.length - 1 ? line.length !== 76 : line.length > 76 || line.length % 4 !== 0)
      throw disturbed();
  });
  return Buffer.from(ours.join(''), 'base64');
}

function fromHex(lines: readonly string[]): Buffer {
  const ours = lines
    .filter((line) => /^( [0-9a-f]{2})+ *$/.test(line))
    .map((line) => line.replaceAll(' ', ''));
  if (ours.slice(0, -1).some((line) => line.length !== 32)) throw disturbed();
  return Buffer.from(ours.join(''), 'hex');
}
