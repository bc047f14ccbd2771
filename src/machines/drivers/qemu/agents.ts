/**
 * Connections to the agents of machines, at most one per machine in this process: opened when somebody needs it, closed
 * soon after nobody does. A virtio port has one client, and another process (a worker that stops the machine) may be
 * waiting for its turn.
 */
import type { Terminal } from '../../driver.ts';
import { closedBy } from '../terminal.ts';
import type { Agent } from './agent/agent.ts';
import { connectAgent } from './agent/client.ts';
import { vmPaths } from './spec.ts';

/** Requests often come in bursts: a command, its files, the next one. */
const idleMs = 500;
/** For a machine that answers. One that is booting is waited for by `ready`. */
const connectMs = 10_000;

export interface Agents {
  /** Connects if need be, and keeps the connection at least until `work` has ended. */
  use<T>(directory: string, work: (agent: Agent) => Promise<T>, options?: { limitMs?: number }): Promise<T>;
  /** A terminal that needs the connection until it is closed. */
  terminal(directory: string, open: (agent: Agent) => Promise<Terminal>): Promise<Terminal>;
  /** Ends the connection now, whoever uses it: its machine has ended, or must not be spoken with any more. */
  drop(directory: string): void;
}

interface Held {
  readonly agent: Promise<Agent>;
  users: number;
}

export function createAgents(): Agents {
  const held = new Map<string, Held>();

  const forget = (directory: string, entry: Held): void => {
    if (held.get(directory) === entry) held.delete(directory);
    void entry.agent.then(
      (agent) => agent.close(),
      () => undefined,
    );
  };
  const take = (directory: string, limitMs: number): Held => {
    const known = held.get(directory);
    const entry: Held = known ?? {
      agent: connectAgent(vmPaths(directory).agent, { limitMs }),
      users: 0,
    };
    entry.users += 1;
    if (known) return known;
    held.set(directory, entry);
    const gone = (): void => {
      if (held.get(directory) === entry) held.delete(directory);
    };
    void entry.agent.then((agent) => agent.closed.then(gone), gone);
    return entry;
  };
  const leave = (directory: string, entry: Held): void => {
    entry.users -= 1;
    if (entry.users > 0) return;
    const close = (): void => {
      if (entry.users === 0) forget(directory, entry);
    };
    setTimeout(close, idleMs).unref();
  };

  return {
    async use(directory, work, { limitMs = connectMs } = {}) {
      const entry = take(directory, limitMs);
      try {
        return await work(await entry.agent);
      } finally {
        leave(directory, entry);
      }
    },
    async terminal(directory, open) {
      const entry = take(directory, connectMs);
      try {
        const terminal = await open(await entry.agent);
        return closedBy(terminal, () => {
          terminal.close();
          leave(directory, entry);
        });
      } catch (error) {
        leave(directory, entry);
        throw error;
      }
    },
    drop(directory) {
      const entry = held.get(directory);
      if (entry) forget(directory, entry);
    },
  };
}
