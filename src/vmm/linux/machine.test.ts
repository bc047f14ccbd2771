import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { within } from '#base/deadline.ts';
import { pipe } from '#host/fds.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { createLinuxMachine } from './machine.ts';
import { readKernel } from './read-kernel.ts';
import { makeBzImage } from './testing.ts';

suite('a machine for Linux', { skip: withoutKvm }, () => {
  test('ends with its devices: when they break, that is what is said, and nothing is left', async () => {
    const before = holdings().fds;
    {
      const [read, write] = pipe();
      using _ends = new DisposableStack();
      _ends.use(read);
      _ends.use(write);
      // no file: the thread of the devices finds out
      using machine = createLinuxMachine({
        kernel: readKernel(makeBzImage()),
        devices: [{ kind: 'block', fd: read.fd, readOnly: true }],
      });
      await assert.rejects(within(60_000, 'its end', machine.run()), /a regular file or a block device/);
    }
    assert.equal(holdings().fds, before);
  });
});
