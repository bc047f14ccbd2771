/** A kept program as a terminal: what it wrote is read from its record, its keeper tells when there is more. */
import { existsSync } from 'node:fs';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import { isLocked } from '#host/flock.ts';
import { attach, type Exec, type ExitReport } from '#isolate/live.ts';
import { keptPaths, readExitReport } from '#isolate/kept.ts';
import { execPaths } from '#isolate/machine.ts';
import { readRecord } from '#isolate/record.ts';
import type { Terminal, Transcript } from '../driver.ts';

/** Before it is tried again to reach a keeper that has dropped us. */
const againMs = 50;

/** How a program ended, in the words of the API. */
export function endOf({ exit, signal, killed, oomKills }: ExitReport): ProgramEnd {
  if (killed === 'wall' || killed === 'output' || killed === 'cpu') return { kind: 'killed', reason: killed };
  if (killed !== null) return { kind: 'killed', reason: 'cancelled' };
  if (signal === 'SIGKILL' && oomKills > 0) return { kind: 'killed', reason: 'memory' };
  if (signal !== null) return { kind: 'signaled', signal };
  return { kind: 'exited', status: exit ?? 255 };
}

/** Where a keeper has its socket, and what it writes. */
export type TerminalPaths = Readonly<Record<'socket' | 'lock' | 'report' | 'record', string>>;

/** Opens the terminal of a kept command of a container, running or ended. */
export async function openKept(directory: string, id: string): Promise<Terminal> {
  return openTerminal(execPaths(directory, id), id);
}

/** What a machine's first process says on its terminal, as its keeper records it. */
export async function openConsole(directory: string): Promise<Terminal> {
  const { console: record, ...paths } = keptPaths(directory);
  return openTerminal({ ...paths, record }, 'the console');
}

/** Opens a terminal that a keeper has; `gone` when its output was thrown away. */
export async function openTerminal(paths: TerminalPaths, id: string): Promise<Terminal> {
  if (!existsSync(paths.record)) throw new CarrelError('gone', `the output of ${id} is not kept any more`);
  const watchers = new Set<() => void>();
  let link: Exec | undefined;
  let end: ProgramEnd | undefined;
  let closed = false;

  const changed = (): void => {
    for (const watcher of watchers) watcher();
  };
  /** Ended, or undefined while it runs. Its lock tells, and after that its report. */
  const look = (): ProgramEnd | undefined => {
    const running = isLocked(paths.lock);
    const report = readExitReport(paths.report);
    if (report) return endOf(report);
    return running ? undefined : { kind: 'killed', reason: 'cancelled' };
  };
  const follow = async (): Promise<void> => {
    end = look();
    if (end) return changed();
    try {
      link = await attach(paths.socket);
    } catch (error) {
      end = look(); // it ended just now
      if (end) return changed();
      throw error;
    }
    link.onOutput(changed);
    void link.ended.then(
      (report) => {
        end = endOf(report);
        changed();
      },
      async () => {
        // the keeper ended, or has dropped us as too slow
        if (closed) return;
        await sleep(againMs);
        if (!closed) await follow().catch(() => changed());
      },
    );
  };
  await follow();

  return {
    read: (from, maxBytes) => readKept(paths.record, from, maxBytes),
    watch(watcher) {
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },
    async write(bytes) {
      if (end || !link) throw new CarrelError('gone', 'the program has ended');
      if (!link.write(bytes)) await sleep(1); // the socket is full: the terminal takes no more for now
    },
    resize({ rows, columns }) {
      link?.resize(rows, columns);
      return Promise.resolve();
    },
    get end() {
      return end;
    },
    close() {
      closed = true;
      link?.close();
    },
  };
}

/** Kept of what a live program writes. */
const liveBytes = 1 << 20;

/** A program that is not kept, as a terminal for as long as it lives: the last MiB of what it writes. */
export function liveTerminal(exec: Exec): Terminal {
  const watchers = new Set<() => void>();
  let text = Buffer.alloc(0);
  let total = 0;
  let end: ProgramEnd | undefined;
  const changed = (): void => {
    for (const watcher of watchers) watcher();
  };
  exec.onOutput((_, bytes) => {
    total += bytes.length;
    text = Buffer.concat([text, bytes]).subarray(-liveBytes);
    changed();
  });
  void exec.ended.then(
    (report) => {
      end = endOf(report);
      changed();
    },
    () => {
      end = { kind: 'killed', reason: 'cancelled' };
      changed();
    },
  );
  return {
    read(wanted, maxBytes = liveBytes) {
      const from = Math.min(total, Math.max(wanted, total - text.length));
      const at = from - (total - text.length);
      return { total, from, bytes: text.subarray(at, at + maxBytes) };
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },
    async write(bytes) {
      if (end) throw new CarrelError('gone', 'the program has ended');
      if (!exec.write(bytes)) await sleep(1);
    },
    resize({ rows, columns }) {
      exec.resize(rows, columns);
      return Promise.resolve();
    },
    get end() {
      return end;
    },
    close: () => watchers.clear(),
  };
}

/** From an absolute offset on, or from the next byte that is still there. */
function readKept(path: string, from: number, maxBytes?: number): Transcript {
  const options = maxBytes === undefined ? {} : { maxBytes };
  try {
    return readRecord(path, from, options);
  } catch (error) {
    const next =
      error instanceof CarrelError && error.code === 'gone'
        ? laterThan(from, error.details?.['available'])
        : undefined;
    if (next === undefined) throw error;
    return readKept(path, next, maxBytes);
  }
}

/** The first offset after `from` in a list of [from, to) ranges. */
function laterThan(from: number, available: unknown): number | undefined {
  if (!Array.isArray(available)) return undefined;
  for (const range of available) {
    const start: unknown = Array.isArray(range) ? range[0] : undefined;
    if (typeof start === 'number' && start > from) return start;
  }
  return undefined;
}

/** The same terminal, but for what closing it does, once. */
export function closedBy(terminal: Terminal, close: () => void): Terminal {
  let open = true;
  return {
    read: (from, maxBytes) => terminal.read(from, maxBytes),
    watch: (changed) => terminal.watch(changed),
    write: (bytes) => terminal.write(bytes),
    resize: (size) => terminal.resize(size),
    get end() {
      return terminal.end;
    },
    close() {
      if (!open) return;
      open = false;
      close();
    },
  };
}
