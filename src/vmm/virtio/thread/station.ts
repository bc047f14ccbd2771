/** Devices made of what an order says, and the descriptors that each waits for. */
import { pollOnce, type Source } from '#host/poll.ts';
import { errnoName, trySyscall } from '#host/syscalls.ts';
import { createBlock } from '../block/block.ts';
import { fileStore } from '../block/store.ts';
import { Console } from '../console/console.ts';
import type { VirtioDevice } from '../device.ts';
import { Net } from '../net/net.ts';
import { tapPort } from '../net/tap.ts';
import type { DeviceSpec } from './order.ts';

export interface Station {
  readonly device: VirtioDevice;
  readonly sources: readonly Source[];
  /** When the machine has ended: what it still has to say. */
  readonly finish?: () => void;
}

type Say = (text: string) => void;

/** What a guest prints waits here for its pipe; beyond it, in the guest's queue. */
const mostPending = 2 ** 16;
/** Whoever reads a console has so long for a machine's last words. */
const lastWordsMs = 1000;

function consoleStation({ output, input }: Extract<DeviceSpec, { kind: 'console' }>, say: Say): Station {
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  let listens = true;
  let typed = true;
  const flush = (): void => {
    while (pending.length > 0) {
      const [first = new Uint8Array()] = pending;
      const result = trySyscall('write', output, first, first.length);
      if (result === first.length) pending.shift();
      else if (result >= 0) pending[0] = first.subarray(result);
      else if (errnoName(result) === 'EAGAIN') break;
      else if (errnoName(result) !== 'EINTR') {
        listens = false;
        pending = [];
        say(`nobody reads any more (${errnoName(result)}): what the guest prints is lost`);
      }
    }
    pendingBytes = pending.reduce((sum, { length }) => sum + length, 0);
  };
  const terminal = new Console({
    output(bytes) {
      if (!listens) return;
      pending.push(bytes);
      pendingBytes += bytes.length;
      flush();
    },
    hasRoom: () => pendingBytes < mostPending,
  });
  const buffer = new Uint8Array(4096);
  return {
    device: terminal,
    finish() {
      const limit = performance.now() + lastWordsMs;
      const wire: Source = { fd: output, direction: 'out', wanted: () => true, serve: flush };
      while (pending.length > 0) {
        const left = limit - performance.now();
        if (left <= 0) return;
        pollOnce([wire], Math.ceil(left));
      }
    },
    sources: [
      {
        fd: output,
        direction: 'out',
        wanted: () => pendingBytes > 0,
        serve() {
          flush();
          if (pendingBytes < mostPending) terminal.resume();
        },
      },
      {
        fd: input,
        direction: 'in',
        wanted: () => typed && terminal.room > 0,
        serve() {
          const result = trySyscall('read', input, buffer, Math.min(buffer.length, terminal.room));
          if (result > 0) terminal.type(buffer.subarray(0, result));
          else if (result === 0 || !['EAGAIN', 'EINTR'].includes(errnoName(result))) typed = false;
        },
      },
    ],
  };
}

function netStation({ tap, mac }: Extract<DeviceSpec, { kind: 'net' }>): Station {
  const card = new Net({ port: tapPort(tap), mac });
  return {
    device: card,
    sources: [{ fd: tap, direction: 'in', wanted: () => card.wantsFrames, serve: () => card.receive() }],
  };
}

function blockStation(spec: Extract<DeviceSpec, { kind: 'block' }>, say: Say): Station {
  const device = createBlock({
    store: fileStore(spec.fd, { readOnly: spec.readOnly }),
    onError: (what, errno) => say(`${what}: ${errno}`),
    ...(spec.id !== undefined && { id: spec.id }),
  });
  return { device, sources: [] };
}

export function openStation(spec: DeviceSpec, say: Say): Station {
  if (spec.kind === 'block') return blockStation(spec, say);
  return spec.kind === 'net' ? netStation(spec) : consoleStation(spec, say);
}
