/** The thread of one vCPU of a Linux machine (a worker): takes its order, runs it, and reports. */
import { parentPort } from 'node:worker_threads';
import { type LinuxVcpuOrder, type LinuxVcpuReport, runLinuxVcpu } from './vcpu-run.ts';

export type FromLinuxVcpu =
  | { readonly kind: 'began' }
  | { readonly kind: 'ended'; readonly report: LinuxVcpuReport };

const say = (message: FromLinuxVcpu): void => parentPort?.postMessage(message);

parentPort?.once('message', (order: LinuxVcpuOrder) => {
  say({ kind: 'began' });
  say({ kind: 'ended', report: runLinuxVcpu(order) });
});
