/** What looks at a machine from outside: one for each kind of machine. */
import { isCarrelError } from '#base/errors.ts';
import type { MachineFileSpec, ObserveSpec } from '../../format/kinds.ts';
import { type Outcome, failed, passed } from '../../judge/outcome.ts';
import { quote } from '../../judge/text.ts';

export interface LookOptions {
  /** The student may know what was expected. */
  readonly reveal: boolean;
  readonly signal: AbortSignal;
}

export interface Observer {
  /** Looks once. `id`: the check, under which a process that it finds is remembered. */
  look(id: string, spec: ObserveSpec, options: LookOptions): Promise<Outcome>;
  /** Has the machine had its time? What is not right by then stays wrong. */
  settled(): Promise<boolean>;
}

export const maxFileBytes = 2 ** 20;

/** Is the file as expected? `read` gives its bytes, or fails as machines/files.ts does. */
export async function judgeFile(
  { path, contains, exact, absent }: MachineFileSpec,
  reveal: boolean,
  read: () => Promise<Uint8Array>,
): Promise<Outcome> {
  let bytes: Uint8Array;
  try {
    bytes = await read();
  } catch (error) {
    if (isCarrelError(error, 'not_found'))
      return absent ? passed(`${path} is not there`) : failed(`there is no file ${path}`);
    if (!isCarrelError(error) || !['invalid_request', 'forbidden', 'too_large'].includes(error.code))
      throw error;
    return failed(error.message);
  }
  if (absent) return failed(`${path} is there`);
  const text = Buffer.from(bytes).toString('utf8');
  const right = exact === undefined ? text.includes(contains ?? '') : text === exact;
  if (right) return passed(`${path} is as expected`);
  return failed(
    reveal
      ? `${path} ${exact === undefined ? `does not contain ${quote(contains ?? '')}` : `is ${quote(text)}, expected ${quote(exact)}`}`
      : `${path} is not as expected`,
  );
}
