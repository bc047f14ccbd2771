/** For tests: a real HTTP server on 127.0.0.1 over a real database, with people in it. */
import { createClient, type Client } from '#contract/client.ts';
import { operations } from '#contract/api.ts';
import type { Store } from '#store/database.ts';
import { startTestCluster, type TestCluster } from '#store/testing.ts';
import { insertToken } from '#store/tokens.ts';
import { insertUser } from '#store/users.ts';
import { hashSecret, newSecret } from './auth/secret.ts';
import { openEventFeed } from './events/feed.ts';
import type { Handlers } from './handlers.ts';
import { courseHandlers } from './handlers/courses.ts';
import { peopleHandlers } from './handlers/people.ts';
import { systemHandlers } from './handlers/system.ts';
import { createHealth } from './health.ts';
import { jsonAnswer } from './http/answer.ts';
import { assembleApp, type AssembleOptions } from './http/assemble.ts';
import { listenHttp, type HttpLimits } from './http/listen.ts';

export interface Person {
  readonly id: string;
  readonly name: string;
  readonly secret: string;
  readonly client: Client;
}

export interface TestServer {
  readonly base: string;
  readonly store: Store;
  readonly port: number;
  /** Lines of the access log so far. */
  readonly lines: string[];
  person(name: string, options?: { admin?: boolean }): Promise<Person>;
  /** fetch with the person's token; the body as JSON unless it is text or bytes. */
  ask(person: Person | undefined, method: string, path: string, options?: AskOptions): Promise<Answered>;
  close(): Promise<void>;
}

export interface AskOptions {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answered {
  readonly status: number;
  readonly headers: Headers;
  /** The parsed JSON body; undefined without one. */
  readonly body: unknown;
}

export interface TestServerOptions {
  /** In place of the real handlers; the rest are stubs. */
  readonly handlers?: (store: Store) => Partial<Handlers>;
  readonly limits?: Partial<HttpLimits>;
  readonly app?: Partial<Pick<AssembleOptions, 'rate' | 'recover' | 'log' | 'checkReplies'>>;
}

/** Starts a server on a fresh database of the cluster. */
export async function startTestServer(
  cluster: TestCluster,
  { handlers = () => ({}), limits = {}, app: more = {} }: TestServerOptions = {},
): Promise<TestServer> {
  const store = await cluster.freshStore();
  const { db } = store;
  const lines: string[] = [];
  const shutdown = new AbortController();
  const feed = openEventFeed(store);
  const health = createHealth({
    version: 'test',
    database: async () => true,
    isolation: async () => true,
    machines: async () => true,
    uplink: async () => false,
  });
  const app = await assembleApp({
    store,
    shutdown: shutdown.signal,
    checkReplies: true,
    rate: { perSecond: Number.POSITIVE_INFINITY },
    accessLog: (line) => void lines.push(line),
    handlers: (authenticator) => ({
      ...stubHandlers(),
      ...systemHandlers({ store, feed, health }),
      ...peopleHandlers({ db, authenticator }),
      ...courseHandlers({ db }),
      ...handlers(store),
    }),
    ...more,
  });
  const server = await listenHttp({ app, listen: { host: '127.0.0.1', port: 0 }, limits });
  const base = `http://127.0.0.1:${server.port}`;
  return {
    base,
    store,
    port: server.port,
    lines,
    async person(name, { admin = false } = {}) {
      const secret = newSecret();
      const { id } = await insertUser(db, { name, admin });
      await insertToken(db, { user_id: id, hash: hashSecret(secret), label: 'test' });
      return { id, name, secret, client: createClient({ base, token: secret }) };
    },
    async ask(person, method, path, { body, headers = {} } = {}) {
      const raw = typeof body === 'string' || body instanceof Uint8Array;
      const response = await fetch(base + path, {
        method,
        headers: {
          ...(person && { authorization: `Bearer ${person.secret}` }),
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: raw ? new Uint8Array(Buffer.from(body)) : JSON.stringify(body) }),
      });
      const text = await response.text();
      return {
        status: response.status,
        headers: response.headers,
        body: text === '' ? undefined : JSON.parse(text),
      };
    },
    async close() {
      shutdown.abort();
      feed.close();
      await server.close({ graceMs: 500 });
      await store.close();
    },
  };
}

/** Handlers that only say that they were reached. */
export function stubHandlers(): Handlers {
  const stubs = operations.map(([operation, route]) => {
    const reply = async (): Promise<unknown> => {
      if (route.websocket) return (socket: { close(): void }) => socket.close();
      return route.replyBytes === undefined ? jsonAnswer('{}') : new Uint8Array();
    };
    return [operation, reply] as const;
  });
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- replies are not looked at in such tests
  return Object.fromEntries(stubs) as unknown as Handlers;
}

export { startTestCluster };
