/**
 * Sizes as the OS-Cloud API takes them (the grammar of humanfriendly.parse_size with binary units): a number,
 * then nothing or a unit of bytes. K, KB and KiB are all 1024 bytes, and so on; case and a blank do not matter.
 */
const prefixes = ['', 'k', 'm', 'g', 't', 'p'] as const;
const decimal = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte', 'petabyte'] as const;
const binary = ['byte', 'kibibyte', 'mebibyte', 'gibibyte', 'tebibyte', 'pebibyte'] as const;

const factors: ReadonlyMap<string, number> = new Map(
  prefixes.flatMap((prefix, power) => {
    const words =
      prefix === ''
        ? ['', 'b', 'byte', 'bytes']
        : [
            prefix,
            `${prefix}b`,
            `${prefix}ib`,
            ...[decimal[power], binary[power]].flatMap((name) => [`${name}`, `${name}s`]),
          ];
    return words.map((word) => [word, 1024 ** power] as const);
  }),
);

/** Whole bytes, rounded down; undefined for what is no size. A JSON number counts bytes. */
export function sizeOf(value: unknown): number | undefined {
  const bytes = typeof value === 'number' ? value : typeof value === 'string' ? parse(value) : Number.NaN;
  return Number.isFinite(bytes) && bytes >= 0 && bytes <= Number.MAX_SAFE_INTEGER
    ? Math.floor(bytes)
    : undefined;
}

function parse(text: string): number {
  if (text.length > 64) return Number.NaN;
  const [, number = '', unit = ''] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text) ?? [];
  return number === '' ? Number.NaN : Number(number) * (factors.get(unit.toLowerCase()) ?? Number.NaN);
}
