/** What images come in and go out as. A file of its own: the command line's help shows it and loads no schemas. */

/** Of a root file system, a disk, or a guest for a mode; always stated, never found out by looking. */
export const imageFormats = [
  'tar',
  'tar.gz',
  'tar.zst',
  'qcow2',
  'raw',
  'guest-real',
  'guest-protected',
  'guest-paged',
  'guest-long',
] as const;
