/** For tests of what a virtual machine is told of itself. */

export const network = {
  name: 'default',
  address: '10.9.8.7',
  prefix: 24,
  gateway: '10.9.8.1',
  mac: '52:54:00:09:08:07',
  bytesPerSecond: null,
};
