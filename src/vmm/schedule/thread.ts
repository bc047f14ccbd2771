/** The thread of a schedule (a worker): one order, and it ends. */
import { parentPort } from 'node:worker_threads';
import { runSchedule, type ScheduleOrder, type ScheduleReport } from './run.ts';

export type FromSchedule =
  | { readonly kind: 'began' }
  | { readonly kind: 'line'; readonly machine: number; readonly text: string }
  | { readonly kind: 'ended'; readonly report: ScheduleReport };

const say = (message: FromSchedule): void => parentPort?.postMessage(message);

async function obey(order: ScheduleOrder): Promise<void> {
  say({ kind: 'began' });
  const report = await runSchedule(order, (machine, text) => say({ kind: 'line', machine, text }));
  say({ kind: 'ended', report });
}

// what goes wrong here is ours: it ends the thread, and whoever gave the order hears of it
parentPort?.once('message', (order: ScheduleOrder) => void obey(order));
