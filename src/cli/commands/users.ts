/** Accounts and tokens. */
import type { Action } from '../spec.ts';
import { all } from '../waiting.ts';

export const userAdd: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const made: { name: string; id: string; admin: boolean; token?: string }[] = [];
  for (const name of args.words('names')) {
    const { id, admin } = await client.createUser({ params: {}, body: { name, admin: args.flag('admin') } });
    const issued = args.flag('token')
      ? await client.createToken({ params: {}, body: { user: name, label: 'first' } })
      : undefined;
    made.push({ name, id, admin, ...(issued && { token: issued.secret }) });
  }
  out.table(
    made,
    [
      { head: 'NAME', cell: (user) => user.name },
      { head: 'ID', cell: (user) => user.id },
      ...(args.flag('token') ? [{ head: 'TOKEN', cell: (user: { token?: string }) => user.token }] : []),
    ],
    'nobody',
  );
  if (args.flag('token')) out.note('A token is shown only now: hand it over, or write it down.');
  return undefined;
};

export const userList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const users = await all((page) => client.listUsers({ params: {}, query: page }));
  out.table(
    users,
    [
      { head: 'NAME', cell: (user) => user.name },
      { head: 'ID', cell: (user) => user.id },
      { head: 'ADMIN', cell: (user) => (user.admin ? 'yes' : '') },
      { head: 'STATE', cell: (user) => (user.disabled ? 'disabled' : 'ok'), paint: out.state },
    ],
    'no accounts',
  );
  return undefined;
};

export const userDisable: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const user = args.word('user');
  await client.disableUser({ params: { user } });
  out.result({ user, disabled: true }, () => `${user} is disabled: the tokens have ended, the work stays.`);
  return undefined;
};

export const tokenNew: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const user = args.option('user');
  const label = args.option('label');
  const days = args.number('days');
  const issued = await client.createToken({
    params: {},
    body: {
      ...(user !== undefined && { user }),
      ...(label !== undefined && { label }),
      ...(days !== undefined && { days }),
    },
  });
  out.note(`Shown only now (${issued.token.id}, valid until ${issued.token.expiresAt ?? 'revoked'}):`);
  out.result(issued, ({ secret }) => secret);
  return undefined;
};

export const tokenList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const tokens = await all((page) => client.listTokens({ params: {}, query: page }));
  out.table(
    tokens,
    [
      { head: 'ID', cell: (token) => token.id },
      { head: 'LABEL', cell: (token) => token.label },
      { head: 'MADE', cell: (token) => token.createdAt },
      { head: 'UNTIL', cell: (token) => token.expiresAt ?? 'revoked' },
      { head: 'LAST USED', cell: (token) => token.lastUsedAt ?? 'never' },
    ],
    'no tokens',
  );
  return undefined;
};

export const tokenRevoke: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const token = args.word('token');
  await client.revokeToken({ params: { token } });
  out.result({ token, revoked: true }, () => `${token} has ended.`);
  return undefined;
};
