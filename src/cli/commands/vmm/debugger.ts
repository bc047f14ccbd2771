/** The debugger's commands: a table of words, each with what it does to a session and what it prints. */
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { formatDuration, hex } from '#base/units.ts';
import type { DebugKind } from '#kvm/debug.ts';
import { parseAddress, parseBreakpoint, parsePlace } from '#vmm/debug/parse.ts';
import { describeEnd } from '#vmm/end.ts';
import type { NumberedBreakpoint, SessionEvent } from '#vmm/session/events.ts';
import { type Session, openSession, type SessionOptions } from '#vmm/session/session.ts';
import type { SessionVcpu } from '#vmm/session/vcpu.ts';
import type { MachineOptions } from '#vmm/machine.ts';
import type { TracedExit } from '#vmm/trace.ts';
import { drawCode } from './draw-code.ts';
import { drawDirty } from './draw-dirty.ts';
import { drawMap, marksOf } from './draw-map.ts';
import { drawFault, drawRegisters } from './draw-run.ts';
import { drawSteps } from './draw-steps.ts';
import { drawTrace } from './draw-trace.ts';
import { drawWalk } from './draw-walk.ts';
import { hexDump } from './hexdump.ts';

/** Exits that `trace` shows. */
const shownExits = 20;

interface Command {
  /** The first is shown in the help; all of them work. */
  readonly names: readonly [string, ...string[]];
  readonly takes: string;
  readonly doc: string;
  /** What it prints; undefined: nothing, or it came as an event. */
  run(words: readonly string[]): string | undefined | Promise<string | undefined>;
}

const count = (word: string | undefined, usual: number): number =>
  word === undefined ? usual : Number(parseAddress(word));

const drawBreakpoint = ({ number, kind, label, address, bytes }: NumberedBreakpoint): string =>
  `${number}  ${kind.padEnd(7)} ${label}${label === hex(address) ? '' : ` (${hex(address)})`}${kind === 'execute' ? '' : `, ${bytes} bytes`}`;

export class Debugger {
  readonly session: Session;
  readonly #print: (text: string) => void;
  readonly #commands: readonly Command[];
  /** The vCPU that commands mean. */
  #chosen = 0;
  #exits: TracedExit[] = [];
  #left = false;

  constructor(
    what: MachineOptions,
    { print, ...options }: SessionOptions & { print: (text: string) => void },
  ) {
    this.#print = print;
    this.session = openSession(what, { ...options, onEvent: (event) => this.#hear(event) });
    this.#commands = this.#table();
  }

  /** True once `quit` was said. */
  get left(): boolean {
    return this.#left;
  }

  #hear(event: SessionEvent): void {
    if (event.kind === 'output') this.#print(event.text.replace(/\n$/, ''));
    if (event.kind === 'exits' && event.vcpu === this.#chosen)
      this.#exits = [...this.#exits, ...event.exits].slice(-shownExits);
    if (event.kind === 'reset') this.#exits = [];
  }

  get #vcpu(): SessionVcpu {
    return this.session.vcpu(this.#chosen);
  }

  get #symbols() {
    return this.session.machine.image.symbols;
  }

  /** The instruction to come. */
  here(lines = 1): string {
    const code = this.#vcpu.code(lines);
    return drawCode(code, code[0]?.at);
  }

  /** After a stretch: why it stands still, and where. */
  #where(): string {
    const { end, exits } = this.#vcpu;
    if (!end) return this.here();
    const lines = [`${describeEnd(end)}; ${exits.total} ${exits.total === 1 ? 'exit' : 'exits'} so far`];
    if (end.kind === 'fault') lines.push(drawFault(end.fault, this.#vcpu.registers().cr3));
    return [...lines, this.here()].join('\n');
  }

  async #step(words: readonly string[]): Promise<string> {
    const { steps = [], end } = await this.session.step(this.#chosen, count(words[0], 1));
    return [drawSteps(steps), ...(end.kind === 'steps done' ? [this.here()] : [this.#where()])].join('\n');
  }

  #break(kind: DebugKind, words: readonly string[]): string {
    const [place] = words;
    if (place === undefined) throw new CarrelError('invalid_request', 'where? Say an address or a symbol');
    const breakpoint = this.session.addBreakpoint(parseBreakpoint(place, kind, this.#symbols));
    return `breakpoint ${drawBreakpoint(breakpoint)}`;
  }

  #dump([place, length]: readonly string[], physical: boolean): string {
    const { rip } = this.#vcpu.registers();
    const at = place === undefined ? rip : parsePlace(place, this.#symbols);
    return hexDump(this.#vcpu.read(at, count(length, 64), { physical }), Number(at));
  }

  #set([name, value]: readonly string[]): undefined {
    if (name === undefined || value === undefined)
      throw new CarrelError('invalid_request', 'say a register and a value: set rax 42');
    this.#vcpu.setRegister(name.toLowerCase(), parsePlace(value, this.#symbols));
  }

  #write([place, ...bytes]: readonly string[]): undefined {
    const wanted = bytes.join('');
    if (place === undefined || !/^(?:[0-9a-f]{2})+$/i.test(wanted))
      throw new CarrelError('invalid_request', 'say an address and bytes in hexadecimal: write 0x400 2a 00');
    this.#vcpu.write(parsePlace(place, this.#symbols), Buffer.from(wanted, 'hex'));
  }

  #choose(word: string | undefined): string {
    if (word !== undefined) {
      const index = count(word, 0);
      this.session.vcpu(index);
      this.#chosen = index;
      this.#exits = [];
    }
    const { state, index } = this.#vcpu;
    return `vcpu ${index} of ${this.session.vcpus.length}, ${state}\n${this.here()}`;
  }

  #counters(): string {
    const { total, byReason, ports } = this.#vcpu.exits;
    const reasons = Object.entries(byReason).map(([name, times]) => `  ${name.padEnd(8)} ${times}`);
    const byPort = ports.map(
      ({ port, direction, count: times }) => `  ${direction.padEnd(3)} ${hex(port)}  ${times}`,
    );
    return [`${total} exits`, ...reasons, ...byPort].join('\n');
  }

  #table(): readonly Command[] {
    const command = (names: Command['names'], takes: string, doc: string, run: Command['run']): Command => ({
      names,
      takes,
      doc,
      run,
    });
    return [
      command(['step', 's'], '[N]', 'execute N instructions', (words) => this.#step(words)),
      command(['continue', 'c'], '', 'run to the next breakpoint; Ctrl-C pauses', async () => {
        await this.session.resume(this.#chosen);
        return this.#where();
      }),
      command(['break', 'b'], 'PLACE', 'stop before an instruction', (words) =>
        this.#break('execute', words),
      ),
      command(['watch', 'w'], 'PLACE[:BYTES]', 'stop after a write', (words) => this.#break('write', words)),
      command(['awatch'], 'PLACE[:BYTES]', 'stop after a write or a read', (words) =>
        this.#break('access', words),
      ),
      command(['delete', 'd'], 'N', 'take a breakpoint away', ([word]) => {
        this.session.removeBreakpoint(count(word, 0));
        return undefined;
      }),
      command(['breakpoints'], '', 'all of them', () =>
        this.session.breakpoints.length === 0
          ? 'none'
          : this.session.breakpoints.map(drawBreakpoint).join('\n'),
      ),
      command(['regs', 'r'], '', 'all registers', () => drawRegisters(this.#chosen, this.#vcpu.registers())),
      command(['set'], 'REGISTER VALUE', 'write a register', (words) => this.#set(words)),
      command(
        ['code', 'l'],
        '[N] [PLACE]',
        'the instructions to come, or those at a place',
        ([lines, place]) =>
          drawCode(
            this.#vcpu.code(
              Math.min(count(lines, 10), 1000),
              place === undefined ? undefined : parsePlace(place, this.#symbols),
            ),
            this.#vcpu.registers().rip,
          ),
      ),
      command(['x'], 'PLACE [BYTES]', 'memory as the guest sees it', (words) => this.#dump(words, false)),
      command(['xp'], 'ADDRESS [BYTES]', 'memory by guest-physical address', (words) =>
        this.#dump(words, true),
      ),
      command(['write'], 'PLACE BYTES', 'write memory: write 0x400 2a 00', (words) => this.#write(words)),
      command(['walk'], 'PLACE', 'the page walk, step by step', ([place = '']) => {
        const { walk, cr3 } = this.#vcpu.walk(parsePlace(place, this.#symbols));
        return drawWalk(walk, cr3);
      }),
      command(['map', 'm'], '', 'memory, drawn', () => {
        const map = this.#vcpu.map();
        return drawMap(map, marksOf(this.#vcpu.registers(), map));
      }),
      command(['dirty'], '', 'pages that were written', () => drawDirty(this.session.machine)),
      command(['exits'], '', 'how often the guest left, and why', () => this.#counters()),
      command(['trace'], '', `the last ${shownExits} exits, with time, port and data`, () =>
        drawTrace(this.#chosen, { dropped: 0, exits: this.#exits }),
      ),
      command(['vcpu'], '[N]', 'which vCPU the commands mean', ([word]) => this.#choose(word)),
      command(['reset'], '', 'begin anew; breakpoints stay', async () => {
        await this.session.reset();
        return this.here();
      }),
      command(['help', 'h'], '', 'this list', () => this.#help()),
      command(['quit', 'q'], '', 'leave', () => {
        this.#left = true;
        return undefined;
      }),
    ];
  }

  #help(): string {
    const rows = this.#commands.map(({ names, takes, doc }) => {
      const head = `${names.join(', ')} ${takes}`.trimEnd();
      return `  ${head.padEnd(24)} ${doc}`;
    });
    return ['A place is an address (0x400, 1024), a symbol (main), or main+0x10.', ...rows].join('\n');
  }

  /** Obeys a line as it was typed. An empty one does nothing. */
  async obey(line: string): Promise<void> {
    const [word = '', ...words] = line.trim().split(/\s+/);
    if (word === '') return;
    const command = this.#commands.find(({ names }) => names.includes(word.toLowerCase()));
    if (!command)
      throw new CarrelError('invalid_request', `there is no command ${word}`, { hint: 'say help' });
    const began = performance.now();
    const text = await command.run(words);
    const ms = performance.now() - began;
    if (text !== undefined && text !== '') this.#print(text);
    if (ms > 1000) this.#print(`(${formatDuration(ms)})`);
  }

  /** Ctrl-C: stops what runs. False if nothing did. Never fails: nobody could hear of it. */
  async interrupt(): Promise<boolean> {
    try {
      const runs = this.#vcpu.state === 'running';
      await this.session.pause(this.#chosen);
      return runs;
    } catch (error) {
      if (isCarrelError(error, 'wrong_state')) return false; // it just begins anew, or ends
      this.#print(messageOf(error));
      return false;
    }
  }
}
