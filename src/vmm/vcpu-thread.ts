/** A thread for vCPUs (a worker): takes an order, says when it begins, hands out lines, reports, waits. */
import { parentPort } from 'node:worker_threads';
import { runOrder, type VcpuOrder, type VcpuReport } from './vcpu-run.ts';

export type FromVcpu =
  | { readonly kind: 'began' }
  | { readonly kind: 'line'; readonly text: string }
  | { readonly kind: 'ended'; readonly report: VcpuReport };

const say = (message: FromVcpu): void => parentPort?.postMessage(message);

async function obey(order: VcpuOrder): Promise<void> {
  say({ kind: 'began' });
  say({ kind: 'ended', report: await runOrder(order, (text) => say({ kind: 'line', text })) });
}

// what goes wrong here is ours: it ends the thread, and whoever gave the order hears of it
parentPort?.on('message', (order: VcpuOrder) => void obey(order));
