/** What a request to a session says, whatever it is that comes; and how one for a WebSocket is refused. */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { CarrelError } from '#base/errors.ts';
import { mostBytes } from './messages.ts';
import { problemOf } from './reader.ts';

/** A command, with as many bytes of memory as it may carry. */
export const mostCommand = mostBytes * 2 + 4096;

/** Behind which event: `?after=N`. */
export function afterOf(url: URL): number {
  const after = url.searchParams.get('after') ?? '0';
  if (!/^\d{1,15}$/.test(after))
    throw new CarrelError('invalid_request', `after=${after} is no number of an event`);
  return Number(after);
}

/** The body of a request, which is not longer than a command may be. */
export async function body(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  incoming.setEncoding('latin1'); // chunks are text then; bytes are made of it again
  for await (const chunk of incoming) {
    const part = Buffer.from(String(chunk), 'latin1');
    bytes += part.length;
    if (bytes > mostCommand) throw new CarrelError('too_large', `a command has at most ${mostCommand} bytes`);
    chunks.push(part);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** The address that was asked for; what is none leads nowhere. */
export function urlOf({ url = '/' }: IncomingMessage): URL {
  const base = 'http://session';
  return URL.canParse(url, base) ? new URL(url, base) : new URL('/nowhere', base);
}

/** An answer in HTTP to what wanted to be a WebSocket, and the end of the connection. */
export function refuseUpgrade(socket: Duplex, refused: CarrelError): void {
  const text = JSON.stringify(problemOf(refused));
  // not of HTTP's any more: nobody else would close it on a client that stays
  socket.once('finish', () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${refused.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
}
