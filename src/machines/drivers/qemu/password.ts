/** Passwords as crypt(5) has them. */
import { launchOk } from '#host/launch.ts';

/** SHA-512-crypt, which every libc knows. The password goes through a pipe: arguments are seen in process lists. */
export async function hashPassword(password: string): Promise<string> {
  const { stdout } = await launchOk(['openssl', 'passwd', '-6', '-stdin'], { input: `${password}\n` });
  return stdout.toString('latin1').trim();
}
