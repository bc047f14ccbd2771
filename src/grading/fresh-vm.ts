/** A virtual machine as grading holds it: on, off, and on again, whoever does that for it. */
import { CarrelError } from '#base/errors.ts';
import type { EndReport, FileRead, RunningMachine, Terminal } from '#machines/driver.ts';
import type { FreshVm, Power } from './machine.ts';

/** What a machine may take to shut down. One that hangs is switched off then, and its disk is of no use. */
const graceMs = 60_000;

/** What the holder of the machine can do with it. */
export interface VmHands {
  readonly id: string;
  readonly address: string | null;
  /** While it is switched on, also if it has just ended. */
  running(): RunningMachine | undefined;
  stop(options: { graceMs: number }): Promise<void>;
  /** False: it runs, and has not answered in time. */
  start(options: { limitMs: number; signal: AbortSignal }): Promise<boolean>;
  console(): Promise<Terminal>;
  readDisk(path: string, options: { maxBytes: number }): Promise<FileRead>;
  /** How its last run ended, as its keeper wrote it down. */
  lastEnd(): EndReport;
}

export function freshVm(hands: VmHands): FreshVm {
  const ends = new WeakMap<RunningMachine, EndReport>();
  let current: RunningMachine | undefined;
  const machine = (): RunningMachine => {
    const running = hands.running() ?? current;
    if (!running) throw new CarrelError('machine_lost', 'the virtual machine is switched off');
    if (running === current) return running;
    current = running;
    // let go of: nobody needs to know
    running.ended.then(
      (end) => ends.set(running, end),
      () => undefined,
    );
    return running;
  };
  let off = false;
  const power = (): Power => {
    if (off) return 'off';
    const report = ends.get(machine());
    if (!report) return 'on';
    // its keeper goes, too, and its last word may have got lost on the way; it is written down before
    const end = report.end ?? hands.lastEnd().end;
    // QEMU ends well when its guest switches itself off
    return end?.kind === 'exited' && end.status === 0 ? 'off' : 'lost';
  };
  const powerOff = async (): Promise<void> => {
    if (off) return;
    await hands.stop({ graceMs });
    off = true;
  };
  return {
    driver: 'qemu',
    startedFrom: machine().runtime.startedFrom,
    id: hands.id,
    address: hands.address,
    run: (request, options) => machine().run(request, options),
    writeFile: (path, bytes, options) => machine().writeFile(path, bytes, options),
    power,
    powerOff,
    async restart(options) {
      await powerOff();
      const answered = await hands.start(options);
      off = false;
      machine();
      return answered;
    },
    cpuMs: async () => (power() === 'on' ? (await machine().stats()).cpuMs : null),
    console: async () => everything(await hands.console()),
    readDisk: async (path, options) => (await hands.readDisk(path, options)).bytes,
  };
}

/** What is kept of it: its beginning and its end. */
function everything(terminal: Terminal): Uint8Array {
  try {
    const parts: Uint8Array[] = [];
    const { total: end } = terminal.read(0, 1); // one that goes on writing is not waited for
    for (let at = 0; at < end;) {
      const { bytes, from } = terminal.read(at);
      if (bytes.length === 0) break;
      parts.push(bytes);
      at = from + bytes.length;
    }
    return Buffer.concat(parts);
  } finally {
    terminal.close();
  }
}
