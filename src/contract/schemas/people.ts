/** Users, their tokens, courses and who is in them. */
import { z } from 'zod';
import { id, line, name, time } from './common.ts';

export const user = z.strictObject({ id, name, admin: z.boolean(), disabled: z.boolean(), createdAt: time });
export type User = z.infer<typeof user>;

export const newUser = z.strictObject({ name, admin: z.boolean().default(false) });

export const token = z.strictObject({
  id,
  userId: id,
  label: line(100),
  createdAt: time,
  expiresAt: time.nullable(),
  lastUsedAt: time.nullable(),
});
export type Token = z.infer<typeof token>;

export const newToken = z.strictObject({
  label: line(100).default('token'),
  /** For administrators: whose token it becomes; the caller's own unless given. */
  user: name.optional(),
  /** Days until it ends; 0 for never. */
  days: z.int().min(0).max(3650).default(180),
});

/** The only answer that ever contains the secret; the server keeps its hash. */
export const issuedToken = z.strictObject({ token, secret: z.string() });

export const role = z.enum(['instructor', 'ta', 'student']);
export type Role = z.infer<typeof role>;

export const course = z.strictObject({
  id,
  name,
  title: line(200),
  /** The caller's role; null for administrators who are not members. */
  role: role.nullable(),
  members: z.int(),
  labs: z.int(),
  createdAt: time,
});
export type Course = z.infer<typeof course>;

export const newCourse = z.strictObject({ name, title: line(200) });
export const courseChange = z.strictObject({ title: line(200) });

export const member = z.strictObject({
  userId: id,
  name,
  role,
  section: line(63).nullable(),
  joinedAt: time,
});
export type Member = z.infer<typeof member>;

export const memberChange = z.strictObject({ role, section: line(63).nullable().default(null) });
