/** The worker around loop.ts: its order comes with it, and what goes wrong in it ends it. */
import { parentPort, workerData } from 'node:worker_threads';
import { runDevices } from './loop.ts';
import type { DevicesOrder, Remark } from './order.ts';

const order: DevicesOrder = workerData;
runDevices(order, (remark: Remark) => parentPort?.postMessage(remark));
