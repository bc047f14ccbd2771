/**
 * LISTEN on one connection of its own, which comes back by itself.
 *
 * A notification is only a hint that there is something to read: it can be lost with the connection, and after
 * every reconnection all listeners are called once. Whoever listens polls too.
 */
import { sleep, within } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import { Client, type ClientConfig } from 'pg';

export type OnNotify = (payload: string) => void;

export interface Listener {
  /** Calls `onNotify` for every notification; resolves when listening, or when the attempts to connect go on. */
  listen(channel: string, onNotify: OnNotify): Promise<() => void>;
  close(): Promise<void>;
}

const longestPauseMs = 1000;

export function createListener({ config, log }: { config: ClientConfig; log: Logger }): Listener {
  const channels = new Map<string, Set<OnNotify>>();
  const closing = new AbortController();
  let client: Client | undefined;
  let running: Promise<void> | undefined;

  const connect = async (): Promise<Client> => {
    const fresh = new Client(config);
    fresh.on('error', () => undefined);
    fresh.on('notification', ({ channel, payload = '' }) => {
      for (const onNotify of channels.get(channel) ?? []) onNotify(payload);
    });
    try {
      await fresh.connect();
      for (const channel of channels.keys()) await fresh.query(`listen ${channel}`);
      return fresh;
    } catch (error) {
      await fresh.end().catch(() => undefined);
      throw error;
    }
  };

  const run = async (first: () => void): Promise<void> => {
    let pause = 20;
    for (let connections = 0; !closing.signal.aborted;) {
      try {
        const fresh = await connect();
        const ended = new Promise<void>((resolve) => fresh.once('end', resolve));
        client = fresh;
        pause = 20;
        connections += 1;
        first();
        if (connections > 1) for (const set of channels.values()) for (const onNotify of set) onNotify('');
        await ended;
        client = undefined;
      } catch (error) {
        log.debug('cannot listen to the database yet', { error: messageOf(error) });
        first();
      }
      await sleep(pause, closing.signal).catch(() => undefined);
      pause = Math.min(pause * 2, longestPauseMs);
    }
  };

  return {
    async listen(channel, onNotify) {
      if (!/^[a-z_]+$/.test(channel)) throw new CarrelError('internal', `not a channel name: ${channel}`);
      const known = channels.get(channel);
      const set = known ?? new Set();
      set.add(onNotify);
      channels.set(channel, set);
      if (!running) {
        const { promise, resolve } = Promise.withResolvers<void>();
        running = run(resolve);
        await promise;
      } else if (!known) {
        // If this fails the connection is gone, and the next one listens to all channels.
        await client?.query(`listen ${channel}`).catch(() => undefined);
      }
      return () => {
        set.delete(onNotify);
      };
    },
    async close() {
      closing.abort();
      const last = client;
      if (last) await within(2000, 'the listening connection to close', last.end()).catch(() => undefined);
      await running;
    },
  };
}
