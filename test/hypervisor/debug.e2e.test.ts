/** The debugger as people use it: on a terminal, with keys; and from a pipe. Memory as a file. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { withoutKvm } from '#kvm/testing.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'src/cli/main.ts');
const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

/** A terminal made by script(1), with somebody at it who reads before typing. */
class Terminal {
  readonly #child;
  #shown = '';
  readonly ended: Promise<number | null>;

  constructor(args: readonly string[]) {
    const command = [process.execPath, main, 'vmm', 'debug', ...args].map(quote).join(' ');
    this.#child = spawn('script', ['-qec', command, '/dev/null'], {
      cwd: root,
      env: { ...process.env, NO_COLOR: '1', TERM: 'xterm' },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.#shown += text;
    });
    this.ended = once(this.#child, 'exit').then(() => this.#child.exitCode);
  }

  type(keys: string): void {
    this.#child.stdin.write(keys);
  }

  /** Waits for text, and takes all up to its end. */
  async see(what: RegExp): Promise<string> {
    const found = await until(
      60_000,
      `${String(what)} on the terminal`,
      () => what.exec(this.#shown) ?? undefined,
    );
    const upTo = this.#shown.slice(0, found.index + found[0].length);
    this.#shown = this.#shown.slice(upTo.length);
    return upTo;
  }

  [Symbol.dispose](): void {
    if (this.#child.exitCode === null) this.#child.kill('SIGKILL');
  }
}

async function directoryFor(context: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-debug-'));
  context.after(() => rm(directory, { recursive: true }));
  return directory;
}

suite('vmm debug', { skip: withoutKvm }, () => {
  test('at a terminal: break, continue, step, registers, quit', async () => {
    using terminal = new Terminal(['guests/examples/hello.c']);
    await terminal.see(/=> 0x0 _start .*\r\n[^]*\(vmm\) /);
    terminal.type('break main\r');
    await terminal.see(/breakpoint 1 {2}execute main \(0x[0-9a-f]+\)[^]*\(vmm\) /);
    terminal.type('continue\r');
    await terminal.see(/breakpoint: main \(0x[0-9a-f]+\) reached; 0 exits so far[^]*\(vmm\) /);
    terminal.type('s 2\r');
    await terminal.see(/INSTRUCTION[^]*=> 0x[0-9a-f]+ main\+0x[0-9a-f]+ [^]*\(vmm\) /);
    terminal.type('nonsense\r');
    await terminal.see(/there is no command nonsense \(say help\)/);
    terminal.type('c\r');
    await terminal.see(/Hello, world!\r\n[^]*halted; 15 exits so far/);
    terminal.type('quit\r');
    assert.equal(await terminal.ended, 0);
  });

  test('Ctrl-C pauses a guest that spins, and the prompt is back; Ctrl-D leaves', async () => {
    using terminal = new Terminal(['guests/faults/spin.c']);
    await terminal.see(/\(vmm\) /);
    terminal.type('step\r');
    await terminal.see(/=> 0x[0-9a-f]+ main [^]*\(vmm\) /);
    terminal.type('c\r');
    await terminal.see(/c\r+\n/);
    // the first Ctrl-C may come before the guest runs
    const nagging = setInterval(() => terminal.type('\u0003'), 300);
    try {
      await terminal.see(/stopped from outside; 0 exits so far[^]*\(vmm\) /);
      await terminal.see(/quit leaves/);
    } finally {
      clearInterval(nagging);
    }
    terminal.type('\u0004');
    assert.equal(await terminal.ended, 0);
  });

  test('from a pipe it is a transcript, and what a guest prints cannot steer the terminal', async (context) => {
    const directory = await directoryFor(context);
    const guest = join(directory, 'guest.c');
    await writeFile(guest, '#include "carrel.h"\nint main(void) { print("\\033[2Jx\\n"); return 7; }\n');
    const input = [
      'c',
      'regs',
      'walk 0x200000',
      'write 0x500 2a',
      'x 0x500 1',
      'map',
      'dirty',
      'trace',
      'help',
    ];
    const { status, stdout } = await launch([process.execPath, main, 'vmm', 'debug', guest], {
      cwd: root,
      timeoutMs: 60_000,
      input: `${input.join('\n')}\n`,
    });
    const text = stdout.toString('utf8');
    assert.equal(status, 0, text);
    for (const seen of [
      /^\(vmm\) c\n\\x1b\[2Jx\nhalted; 2 exits so far$/m,
      /^RAX {4}0000000000000007/m,
      /not mapped: PD\[1\] is not present/,
      /^00000500 {2}2a +\|\*\|$/m,
      /│ PML4, 1 entry +\[0\] 0x30[0-9a-f]{2} │/,
      /^vcpu 0: \d+ of 512 pages, by (?:dirty log|comparison)/m,
      /^0 +2 +[\d.]+ us {2}HLT$/m,
      /^ {2}continue, c +run to the next breakpoint/m,
    ])
      assert.match(text, seen);
  });
});

async function dump(
  ...args: readonly string[]
): Promise<{ readonly status: number | null; readonly stdout: string; readonly stderr: string }> {
  const { status, stdout, stderr } = await launch([process.execPath, main, 'vmm', 'dump', ...args], {
    cwd: root,
    timeoutMs: 60_000,
  });
  return { status, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
}

suite('vmm dump', { skip: withoutKvm }, () => {
  test('memory after a run and before, by linear and by physical address, as text and as a file', async (context) => {
    const directory = await directoryFor(context);
    const after = await dump('guests/examples/hello.c', '0x400', '4');
    assert.equal(after.stdout, `00000400  2a 00 00 00${' '.repeat(39)}|*...|\n00000404\n`);
    const before = await dump('guests/examples/hello.c', '0x400', '4', '--before');
    assert.match(before.stdout, /^00000400 {2}00 00 00 00 /);
    const args = ['guests/examples/hello.c', '0x202000', '2', '--vcpus=2', '--physical', '--before'];
    const tables = await dump(...args);
    assert.match(tables.stdout, /^00202000 {2}07 30 /);
    const second = await dump('guests/examples/hello.c', '0x2000', '2', '--vcpus=2', '--vcpu=1', '--before');
    assert.match(second.stdout, /^00002000 {2}07 30 /);
    const file = join(directory, 'code.bin');
    const out = await dump('guests/examples/hello.c', 'main', '16', `--out=${file}`, '--json');
    assert.equal(out.status, 0, out.stderr);
    assert.match(out.stdout, new RegExp(`"bytes": "${(await readFile(file)).toString('hex')}"`));
    const again = await dump('guests/examples/hello.c', 'main', '16', `--out=${file}`);
    assert.equal(again.status, 2);
    assert.match(again.stderr, /it exists/);
    const beyond = await dump('guests/examples/hello.c', '0x1ffff0', '32');
    assert.deepEqual([beyond.status, beyond.stdout], [2, '']);
    assert.match(beyond.stderr, /PD\[1\] is not present/);
  });
});
