/** Passwords that Carrel makes: readable aloud, and hashed as crypt(5) has it. */
import { randomInt } from 'node:crypto';
import { launchOk } from '#host/launch.ts';

/** No letter that looks like a digit or like another letter. */
const alphabet = 'abcdefghijkmnpqrstuvwxyz23456789';
/** 5 bits each. */
const groups = 5;
const groupLength = 4;

/** A new random password of 100 bits, such as `q7xk-2mnd-...`. */
export function randomPassword(): string {
  return Array.from({ length: groups }, randomGroup).join('-');
}

function randomGroup(): string {
  return Array.from({ length: groupLength }, () => alphabet[randomInt(alphabet.length)] ?? '').join('');
}

/** SHA-512-crypt, which every libc knows. The password goes through a pipe: arguments are seen in process lists. */
export async function hashPassword(password: string): Promise<string> {
  const { stdout } = await launchOk(['openssl', 'passwd', '-6', '-stdin'], { input: `${password}\n` });
  return stdout.toString('latin1').trim();
}
