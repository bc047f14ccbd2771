/**
 * The OS-Cloud routes on a listener of their own: one small HTTP server, for a compatible API that is asked by
 * scripts in a loop. Who asks is decided first: a token, or, where the routes are open, whoever is on this host.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { within } from '#base/deadline.ts';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import type { Actor } from '#base/actor.ts';
import type { Logger } from '#base/log.ts';
import type { Authenticator } from '../auth/authenticate.ts';
import { secretOf } from '../auth/secret.ts';
import { checkDeclaredLength } from '../http/body.ts';
import type { Listen } from '../http/listen.ts';
import { type Answer, errorAnswer, page } from './answers.ts';
import { understand } from './understand.ts';
import type { Vms } from './vms.ts';

export interface OsCloudOptions {
  readonly listen: Listen;
  readonly vms: Vms;
  /** Who everybody is, or how tokens are read. */
  readonly access:
    | { readonly everybody: Actor }
    | { readonly authenticator: Pick<Authenticator, 'identify'> };
  readonly log: Logger;
}

export interface OsCloud {
  readonly host: string;
  readonly port: number;
  close(options?: { graceMs?: number }): Promise<void>;
}

/** The largest request has a name, a key and a few words. */
const maxBodyBytes = 64 * 2 ** 10;
const maxConnections = 1024;

export async function listenOsCloud({ listen, vms, access, log }: OsCloudOptions): Promise<OsCloud> {
  const server = createServer(
    {
      headersTimeout: 10_000,
      requestTimeout: 30_000,
      keepAliveTimeout: 65_000,
      connectionsCheckingInterval: 5000,
      maxHeaderSize: 16 * 2 ** 10,
    },
    (incoming, outgoing) => {
      outgoing.on('error', () => undefined); // who went away is not answered
      converse(incoming, { vms, access })
        .catch((error: unknown) => {
          log.error('an OS-Cloud request failed', { error });
          return errorAnswer('the server made a mistake; its log has more');
        })
        .then((answer) => send(incoming, outgoing, answer))
        .catch((error: unknown) => log.debug('an answer could not be sent', { error: messageOf(error) }));
    },
  );
  server.maxConnections = maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new CarrelError('unavailable', `cannot serve OS-Cloud: ${cause.message}`, { cause })),
    );
    server.listen('fd' in listen ? { fd: listen.fd } : { ...listen }, resolve);
  });
  const { address: host, port } = addressOf(server.address());
  return {
    host,
    port,
    async close({ graceMs = 2000 } = {}) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      await within(graceMs, 'answers to finish', closed).catch(() => undefined);
      server.closeAllConnections();
      await closed;
    },
  };
}

function addressOf(address: AddressInfo | string | null): Pick<AddressInfo, 'address' | 'port'> {
  return typeof address === 'object' && address !== null ? address : { address: '', port: 0 };
}

async function converse(
  incoming: IncomingMessage,
  { vms, access }: Pick<OsCloudOptions, 'vms' | 'access'>,
): Promise<Answer> {
  const { method = '', url = '/', headers } = incoming;
  const at = url.indexOf('?');
  const path = at < 0 ? url : url.slice(0, at);
  const actor = await actorOf(incoming, path, access);
  if ('status' in actor) return actor;
  let body: Uint8Array = new Uint8Array();
  if (method === 'POST')
    try {
      checkDeclaredLength(headers['content-length'], maxBodyBytes);
      body = await bodyOf(incoming);
    } catch (error) {
      if (isCarrelError(error, 'too_large')) return page(413, { connection: 'close' });
      return page(400, { connection: 'close' });
    }
  const understood = understand({ method, path, contentType: headers['content-type'], body });
  return 'answer' in understood ? understood.answer : vms.answer(actor, understood.ask);
}

async function actorOf(
  { headers }: IncomingMessage,
  path: string,
  access: OsCloudOptions['access'],
): Promise<Actor | Answer> {
  // A page of the web whose name leads here (DNS rebinding) would speak with its reader's voice.
  if ('everybody' in access) return isLocalName(headers.host) ? access.everybody : page(403);
  const secret = secretOf(headers.authorization);
  try {
    if (secret !== undefined) return (await access.authenticator.identify(secret)).actor;
  } catch (error) {
    if (!isCarrelError(error, 'unauthenticated')) return page(503);
  }
  if (path === '/') return nobody; // the greeting is for everybody, and there is nothing else to be had
  return page(401, { 'www-authenticate': 'Bearer' });
}

const nobody: Actor = { id: '', name: '', admin: false };

function isLocalName(host: string | undefined): boolean {
  return host === undefined || /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?$/i.test(host);
}

async function bodyOf(incoming: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let total = 0;
  // `requestTimeout` bounds the time, this the bytes
  for await (const chunk of incoming) {
    if (!Buffer.isBuffer(chunk)) continue;
    total += chunk.length;
    if (total > maxBodyBytes) throw new CarrelError('too_large', 'the body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function send(incoming: IncomingMessage, outgoing: ServerResponse, answer: Answer): void {
  const { status, type, body, headers } = answer;
  outgoing.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'x-content-type-options': 'nosniff',
    ...headers,
  });
  outgoing.end(incoming.method === 'HEAD' ? undefined : body);
}
