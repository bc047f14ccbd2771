/** From whatever a console shows to a shell that answers. */
import { CarrelError } from '#base/errors.ts';
import { makeMarker } from '#base/marker.ts';
import { type Coding, codingIn, probeLine } from './script.ts';
import { endLength, type Screen, shownEnd } from '#base/screen.ts';

export interface Login {
  readonly user: string;
  readonly password: string;
}

export const ctrlC = '\x03';
/** Throws away what is typed on the line so far (stty(1): kill). */
const ctrlU = '\x15';

/** A shell under emulation needs some tenths of a second. */
const probeMs = 2500;
const stepMs = 15_000;

/** What the end of the screen asks for. */
export function askedFor(text: string): 'user' | 'password' | 'unknown' {
  const last =
    shownEnd(text)
      .slice(-200)
      .split(/[\r\n]/)
      .at(-1) ?? '';
  // not half of "Last login: Sunday", which greets the one who was let in
  if (/(^|(?<!\blast)\s)login: ?$/i.test(last)) return 'user';
  return /password[^:]{0,40}: ?$/i.test(last) ? 'password' : 'unknown';
}

async function probe(screen: Screen): Promise<Coding | undefined> {
  const marker = makeMarker();
  screen.forget();
  await screen.type(`${ctrlU}${probeLine(marker)}\r`);
  return await screen.wait(probeMs, (text) => codingIn(text, marker));
}

/** False: what looked like a prompt was none, nothing came of it. */
async function logIn(screen: Screen, { user, password }: Login): Promise<boolean> {
  screen.forget();
  await screen.type(`${ctrlU}${user}\r`);
  const asked = await screen.wait(stepMs, (text) =>
    askedFor(text) === 'password' ? true : /[#$%>] ?$/.test(shownEnd(text)) ? false : undefined,
  );
  if (asked !== true) return asked === false; // an account without a password: the next look tells
  screen.forget();
  await screen.type(`${password}\r`);
  const refused = await screen.wait(stepMs, (text) => {
    // whatever words it has for it: one who is asked for his name again was not let in
    if (/incorrect|denied|failure/i.test(text.slice(-endLength)) || askedFor(text) === 'user') return true;
    return /[#$%>] ?$/.test(shownEnd(text)) ? false : undefined;
  });
  if (refused === true)
    throw new CarrelError('forbidden', `the machine does not let ${user} log in on its serial console`, {
      hint:
        password === ''
          ? 'its image has no agent, and no root without a password: log in yourself with carrel console, or use ssh'
          : 'somebody may have changed the password of root in the machine',
    });
  return true;
}

/**
 * Finds or makes a shell within `limitMs`. First without disturbing anybody; what does not answer is interrupted.
 * `forbidden`: the password is wrong; `deadline_exceeded`: nothing on the console answers.
 */
export async function reachShell(screen: Screen, login: Login, limitMs: number): Promise<Coding> {
  const end = performance.now() + limitMs;
  for (let interrupted = false; performance.now() < end;) {
    // a prompt waits; a program may well write the same in passing
    if (askedFor(screen.text) === 'user') await screen.quiet(200, 1000);
    const asks = askedFor(screen.text);
    const came = asks === 'user' && (await logIn(screen, login));
    if (asks === 'unknown') {
      const coding = await probe(screen);
      if (coding) return coding;
      if (askedFor(screen.text) === 'user') continue;
    }
    if (!came) {
      // a program that reads or writes, an open quotation, half a login: it ends, and what was there before comes again
      screen.forget();
      await screen.type(interrupted ? `${ctrlC}\r` : ctrlC);
      interrupted = true;
    }
    await screen.quiet(300, 3000);
  }
  throw new CarrelError(
    'deadline_exceeded',
    `nothing on the serial console answered in ${limitMs / 1000} s`,
    {
      hint: "look at the machine's console: carrel console NAME",
    },
  );
}
