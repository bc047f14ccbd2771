import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { flatImage } from '#vmm/image/image.ts';
import { Debugger } from './debugger.ts';

test(
  'Ctrl-C stops nothing, and fails nothing, while the guest begins anew and when it is gone',
  { skip: withoutKvm },
  async () => {
    const said: string[] = [];
    const image = flatImage(Uint8Array.of(0xf4)); // hlt
    const debug = new Debugger({ mode: 'long', image, vcpus: 1 }, { print: (text) => said.push(text) });
    try {
      const anew = debug.obey('reset');
      assert.equal(await debug.interrupt(), false);
      await anew;
      await debug.obey('continue');
      assert.match(said.join('\n'), /^halted; 1 exit so far/m);
    } finally {
      await debug.session.close();
    }
    assert.equal(await debug.interrupt(), false);
  },
);
