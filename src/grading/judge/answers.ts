/** Is a student's answer what the machine says? */
import { parseSize } from '#base/units.ts';
import { quote } from './text.ts';

/** As YAML has it. */
export type Answer = string | number | bigint | boolean | null;

/** A whole number, however it is written: 4096, 0x1000, "4 KiB", "4096 bytes". Undefined: it is none. */
function wholeNumber(answer: Answer): bigint | undefined {
  if (typeof answer === 'bigint') return answer;
  if (typeof answer === 'number') return Number.isSafeInteger(answer) ? BigInt(answer) : undefined;
  if (typeof answer !== 'string') return undefined;
  const text = answer.trim().replace(/\s*bytes?$/i, '');
  if (/^(?:0x[0-9a-f]{1,16}|\d{1,20})$/i.test(text)) return BigInt(text);
  try {
    return BigInt(parseSize(text));
  } catch {
    return undefined;
  }
}

const words = (answer: Answer): string => {
  if (typeof answer === 'boolean') return answer ? 'yes' : 'no';
  return String(answer ?? '')
    .trim()
    .replaceAll(/\s+/g, ' ')
    .toLowerCase();
};

/** A problem with an answer; undefined if it is right. What is right is not told. */
export function answerProblem(key: string, answer: Answer | undefined, fact: string): string | undefined {
  if (answer === undefined || answer === null || answer === '') return `${key} is not answered`;
  const isNumber = /^\d+$/.test(fact);
  const right = isNumber ? wholeNumber(answer) === BigInt(fact) : words(answer) === fact.toLowerCase();
  if (right) return undefined;
  return `${key}: the machine does not say ${quote(String(answer))}`;
}
