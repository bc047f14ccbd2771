/**
 * A thread for vCPUs (a worker): takes an order, runs the vCPU as far as it is told, once or many times, says when it
 * begins, hands out what it prints, reports, waits.
 */
import { parentPort } from 'node:worker_threads';
import type { Goal } from './debug/choose.ts';
import type { TracedExits } from './trace.ts';
import { type VcpuOrder, type VcpuReport, VcpuRun } from './vcpu-run.ts';

export type ToVcpu =
  | { readonly kind: 'open'; readonly order: VcpuOrder }
  | { readonly kind: 'go'; readonly goal: Goal; readonly kick: SharedArrayBuffer }
  | { readonly kind: 'close' };

export type FromVcpu =
  | { readonly kind: 'began' }
  | { readonly kind: 'line'; readonly text: string }
  | { readonly kind: 'exits'; readonly batch: TracedExits }
  | { readonly kind: 'ended'; readonly report: VcpuReport };

const say = (message: FromVcpu): void => parentPort?.postMessage(message);

let run: VcpuRun | undefined;

async function obey(message: ToVcpu): Promise<void> {
  if (message.kind === 'open')
    run = new VcpuRun(message.order, {
      began: () => say({ kind: 'began' }),
      line: (text) => say({ kind: 'line', text }),
      exits: (batch) => say({ kind: 'exits', batch }),
    });
  else if (message.kind === 'go') {
    try {
      const report = await run?.go(message.kick, message.goal);
      if (report) say({ kind: 'ended', report });
    } catch (error) {
      run?.close(); // the thread ends now; the files would not
      throw error;
    }
  } else {
    run?.close();
    run = undefined;
  }
}

// what goes wrong here is ours: it ends the thread, and whoever gave the order hears of it
parentPort?.on('message', (message: ToVcpu) => void obey(message));
