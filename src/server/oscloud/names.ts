/** The name under which the rest of Carrel knows a VM: its display name, which may hold any characters, made narrow. */

const maxLength = 63;

/** `my_vm` -> `my-vm`; what has nothing usable in it becomes `vm`. With `suffix`, `my-vm-<suffix>`. */
export function machineNameOf(displayName: string, suffix = ''): string {
  const room = maxLength - (suffix === '' ? 0 : suffix.length + 1);
  const base = displayName
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, room)
    .replace(/^-+|-+$/g, '');
  const name = base === '' ? 'vm' : base;
  return suffix === '' ? name : `${name}-${suffix}`;
}
