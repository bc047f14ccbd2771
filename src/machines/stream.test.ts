import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import type { Terminal } from './driver.ts';
import { type Attachment, openStreams, type StreamMessage } from './stream.ts';

/** A terminal that echoes what is written to it and keeps the last `keep` bytes. */
function echo({ keep = 1 << 20 } = {}) {
  const watchers = new Set<() => void>();
  let text = '';
  let end: Terminal['end'];
  let open = 0;
  const say = (more: string): void => {
    text += more;
    for (const changed of watchers) changed();
  };
  const terminal: Terminal = {
    read(from, maxBytes = 1 << 20) {
      const first = Math.max(from, text.length - keep, 0);
      return { total: text.length, from: first, bytes: Buffer.from(text.slice(first, first + maxBytes)) };
    },
    watch(changed) {
      watchers.add(changed);
      return () => void watchers.delete(changed);
    },
    write: (bytes) => Promise.resolve(say(Buffer.from(bytes).toString())),
    resize: () => Promise.resolve(),
    get end() {
      return end;
    },
    close: () => void (open -= 1),
  };
  return {
    say,
    finish(): void {
      end = { kind: 'exited', status: 3 };
      say('');
    },
    opened: () => open,
    open: (): Promise<Terminal> => {
      open += 1;
      return Promise.resolve(terminal);
    },
  };
}

async function next(attachment: Attachment): Promise<StreamMessage | undefined> {
  const { value, done } = await attachment[Symbol.asyncIterator]().next();
  return done === true ? undefined : value;
}

async function text(attachment: Attachment): Promise<string> {
  const message = await next(attachment);
  assert.equal(message?.kind, 'output');
  return message?.kind === 'output' ? Buffer.from(message.bytes).toString() : '';
}

test('many read the same bytes at their own offsets, one writes, and the right to write can be taken', async () => {
  const shell = echo();
  shell.say('hello ');
  const streams = openStreams();
  const one = await streams.attach('k', shell.open);
  const two = await streams.attach('k', shell.open, { from: 3 });
  assert.equal(shell.opened(), 1);
  assert.deepEqual(await next(one), { kind: 'status', status: { from: 0, writer: true } });
  assert.deepEqual(await next(two), { kind: 'status', status: { from: 3, writer: false } });
  assert.equal(await text(one), 'hello ');
  assert.equal(await text(two), 'lo ');
  await assert.rejects(two.write(Buffer.from('x')), (error) => isCarrelError(error, 'wrong_state'));
  two.takeWriter();
  assert.deepEqual(await next(one), { kind: 'status', status: { writer: false } });
  await two.write(Buffer.from('world'));
  assert.equal(await text(one), 'world');
  shell.finish();
  assert.deepEqual(await next(one), { kind: 'status', status: { end: { kind: 'exited', status: 3 } } });
  assert.equal(await next(one), undefined);
  two.close();
  assert.equal(shell.opened(), 0);
});

test('a reader who is too slow is dropped and told where to come back', async () => {
  const shell = echo({ keep: 10 });
  const streams = openStreams();
  const slow = await streams.attach('k', shell.open);
  await next(slow);
  for (let round = 0; round < 10; round += 1) shell.say('0123456789');
  await assert.rejects(next(slow), (error) => isCarrelError(error, 'gone') && error.details?.['from'] === 90);
  assert.equal(shell.opened(), 0);
  using again = await streams.attach('k', shell.open, { from: 90 });
  assert.deepEqual(await next(again), { kind: 'status', status: { from: 90, writer: true } });
  assert.equal(await text(again), '0123456789');
});

test('an offset beyond the end waits for what comes next', async () => {
  const shell = echo();
  const streams = openStreams();
  using reader = await streams.attach('k', shell.open, { from: 1000 });
  assert.deepEqual(await next(reader), { kind: 'status', status: { from: 0, writer: true } });
  const coming = text(reader);
  shell.say('now');
  assert.equal(await coming, 'now');
});
