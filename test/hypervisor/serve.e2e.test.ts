/** `carrel vmm serve` as a command: its address and token, a client from outside, Ctrl-C, and nothing that stays. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { until, within } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { withoutKvm } from '#kvm/testing.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = 'src/cli/main.ts';
const hello = 'guests/examples/hello.c';

const serve = async (...args: readonly string[]): ReturnType<typeof launch> =>
  await launch([process.execPath, main, 'vmm', 'serve', hello, ...args], { cwd: root, timeoutMs: 120_000 });

suite('vmm serve', { skip: withoutKvm }, () => {
  test('its address and token are printed, a client runs the guest, Ctrl-C ends it', async () => {
    const child = spawn(process.execPath, [main, 'vmm', 'serve', hello, '--vcpus=2'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const ended = once(child, 'exit');
      const lines: string[] = [];
      for await (const line of createInterface({ input: child.stdout })) {
        lines.push(line);
        if (line.startsWith('try:')) break;
      }
      const said = lines.join('\n');
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0] ?? '';
      const token = /^token (\S{32})$/m.exec(said)?.[1] ?? '';
      const headers = { authorization: `Bearer ${token}` };
      const command = await fetch(`${url}/command`, {
        method: 'POST',
        headers,
        body: JSON.stringify({ do: 'step', vcpu: 1, count: 3 }),
      });
      assert.equal(command.status, 200, said);
      const schema = z.looseObject({
        events: z.array(z.looseObject({ event: z.looseObject({ kind: z.string() }) })),
      });
      const kinds = await until(120_000, 'the step to end', async () => {
        const { events } = schema.parse(await (await fetch(`${url}/events`, { headers })).json());
        const heard = new Set(events.map(({ event }) => event.kind));
        return heard.has('stopped') ? heard : undefined;
      });
      assert.deepEqual([...kinds].toSorted(), ['running', 'steps', 'stopped']);
      child.kill('SIGINT');
      const [status] = await within(120_000, 'the command to end', ended);
      assert.equal(status, 0);
      await assert.rejects(fetch(`${url}/snapshot`, { headers }));
    } finally {
      if (child.exitCode === null) child.kill('SIGKILL');
    }
  });

  test('it listens on the loopback only, takes no short token, and ends by itself', async () => {
    const everywhere = await serve('--listen=0.0.0.0:0');
    assert.equal(everywhere.status, 3);
    assert.match(everywhere.stderr.toString('utf8'), /can be reached from elsewhere/);
    assert.equal((await serve('--token=short')).status, 2);
    const alone = await serve('--idle=100ms', '--json');
    assert.equal(alone.status, 0);
    const printed = z.strictObject({ url: z.string(), token: z.string() });
    assert.equal(printed.parse(JSON.parse(alone.stdout.toString('utf8'))).token.length, 32);
  });
});
