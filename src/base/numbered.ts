/**
 * The addressing of the seed's lab, in which a machine has a number and a subnet of its own: number x (1 to 55) has
 * the wire vmtap{100+x} and the network 192.168.{200+x}.0/24, with .1 on the wire's end and .2 in the machine. The one
 * place that knows: the API, the database and the fabric ask here.
 */
const taps = 100;
const subnets = 200;

export const numbered = {
  first: 1,
  /** The last one that is an octet. */
  last: 255 - subnets,
  /** The smallest range that holds them all. */
  cidr: '192.168.192.0/18',
  prefix: 24,
} as const;

/** In words, for those who name another number. */
export const numbersInWords = `${numbered.first} to ${numbered.last}`;

const networkOf = (number: number): string => `192.168.${subnets + number}`;

export const isMachineNumber = (number: number): boolean =>
  Number.isInteger(number) && number >= numbered.first && number <= numbered.last;

/** The machine's address; of a number that there is. */
export const addressOfNumber = (number: number): string => `${networkOf(number)}.2`;
export const gatewayOfNumber = (number: number): string => `${networkOf(number)}.1`;
export const tapOfNumber = (number: number): string => `vmtap${taps + number}`;

/** The other way: of any address in the subnet of a number; undefined for all others. */
export function numberOfAddress(address: string): number | undefined {
  const third = /^192\.168\.(\d{1,3})\.\d{1,3}$/.exec(address)?.[1];
  const number = Number(third) - subnets;
  return third !== undefined && isMachineNumber(number) ? number : undefined;
}
