/** For tests of the lab format: a lab.yaml that is right, and what is said of one that is not. */
import assert from 'node:assert/strict';
import { CarrelError, messageOf } from '#base/errors.ts';
import { parseYaml } from './document.ts';
import { type LabDefinition, resolveLab } from './lab.ts';
import { labFields } from './schema.ts';

export const parse = (text: string): LabDefinition => resolveLab(parseYaml('lab.yaml', text, labFields));

/** The message of `lab_invalid`, or that there is none. */
export function complaint(text: string): string {
  try {
    parse(text);
  } catch (error) {
    assert.ok(error instanceof CarrelError && error.code === 'lab_invalid', messageOf(error));
    return error.message;
  }
  return 'no complaint';
}
