import { listOf, page } from '../schemas/common.ts';
import { issuedToken, newToken, newUser, token, user } from '../schemas/people.ts';
import type { Route } from '../route.ts';

/** Accounts and tokens. */
export const peopleRoutes = {
  getMe: { method: 'GET', path: '/v1/me', doc: 'Who am I?', access: 'user', reply: user },
  listUsers: {
    method: 'GET',
    path: '/v1/users',
    doc: 'List accounts',
    access: 'admin',
    query: page,
    reply: listOf(user),
  },
  createUser: {
    method: 'POST',
    path: '/v1/users',
    doc: 'Make an account',
    access: 'admin',
    body: newUser,
    reply: user,
    status: 201,
    idempotent: true,
  },
  disableUser: {
    method: 'DELETE',
    path: '/v1/users/{user}',
    doc: 'Close an account: its tokens end at once, its work stays',
    access: 'admin',
    status: 204,
  },
  listTokens: {
    method: 'GET',
    path: '/v1/tokens',
    doc: 'List your tokens',
    access: 'user',
    query: page,
    reply: listOf(token),
  },
  createToken: {
    method: 'POST',
    path: '/v1/tokens',
    doc: 'Make a token; its secret is in this answer and nowhere else',
    access: 'user',
    body: newToken,
    reply: issuedToken,
    status: 201,
  },
  revokeToken: {
    method: 'DELETE',
    path: '/v1/tokens/{token}',
    doc: 'End a token',
    access: 'user',
    status: 204,
  },
} as const satisfies Record<string, Route>;
