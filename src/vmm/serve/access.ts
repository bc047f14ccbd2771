/** Who may talk to a session: whoever has its token; and of browsers only pages that were named. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { CarrelError } from '#base/errors.ts';
import { tokenProtocol } from './messages.ts';

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

function offered({ headers }: IncomingMessage): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  if (bearer !== undefined) return bearer;
  // only a WebSocket has protocols; elsewhere the header means nothing
  const protocols = headers['sec-websocket-protocol']?.split(',').map((each) => each.trim()) ?? [];
  return protocols.find((each) => each.startsWith(tokenProtocol))?.slice(tokenProtocol.length);
}

/** In the same time, whatever is wrong with it. */
function hasToken(incoming: IncomingMessage, token: string): boolean {
  const found = offered(incoming);
  return found !== undefined && timingSafeEqual(digest(found), digest(token));
}

/**
 * Browsers say which page it is that asks. Programs say nothing, and are let in with the token alone; a page that was
 * not named is refused even with it, so that no page guesses tokens in its visitors' names.
 */
function isOriginAllowed({ headers }: IncomingMessage, origins: readonly string[]): boolean {
  return headers.origin === undefined || origins.includes(headers.origin);
}

/**
 * Asked by an address, as `localhost`, or by the name of a page's host that was named. A browser sends no Origin when
 * a page asks its own host; one whose name leads here (DNS rebinding) still says that name.
 */
function isHostAllowed({ headers: { host } }: IncomingMessage, origins: readonly string[]): boolean {
  const url = `http://${host ?? ''}`;
  if (!URL.canParse(url)) return false;
  const { hostname } = new URL(url);
  const name = hostname.replace(/^\[(.*)\]$/, '$1');
  return (
    isIP(name) !== 0 ||
    name === 'localhost' ||
    origins.some((origin) => URL.canParse(origin) && new URL(origin).hostname === hostname)
  );
}

export interface Access {
  readonly token: string;
  /** Pages that may ask, as browsers name them: `http://127.0.0.1:7070`. */
  readonly origins?: readonly string[];
}

/** Why it may not; nobody gets further than this without the token. */
export function refusal(incoming: IncomingMessage, { origins = [], token }: Access): CarrelError | undefined {
  if (!isOriginAllowed(incoming, origins))
    return new CarrelError('forbidden', 'this page may not ask here', {
      hint: 'start with --origin for it',
    });
  if (!isHostAllowed(incoming, origins))
    return new CarrelError('forbidden', `this is not ${incoming.headers.host ?? 'a host without a name'}`, {
      hint: 'ask by the address, 127.0.0.1',
    });
  return hasToken(incoming, token)
    ? undefined
    : new CarrelError('unauthenticated', 'the token is missing or wrong');
}
