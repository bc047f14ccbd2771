/** Names instead of ids, where the API wants an id: labs and submissions. */
import { CarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Lab, Submission } from '#contract/schemas/labs.ts';
import { all } from './waiting.ts';

const idOf = (prefix: string): RegExp => new RegExp(`^${prefix}-[0-9a-hjkmnp-tv-z]{12}$`);

/** A lab by id, by `COURSE/LAB`, or by its name alone if only one of your courses has such a lab. */
export async function findLab(client: Client, word: string): Promise<Lab> {
  if (idOf('l').test(word)) return client.getLab({ params: { lab: word } });
  const [first = '', second] = word.split('/');
  const name = second ?? first;
  const courses =
    second === undefined
      ? (await all((page) => client.listCourses({ params: {}, query: page }))).map((course) => course.name)
      : [first];
  const found: { course: string; lab: Lab }[] = [];
  for (const course of courses)
    for (const lab of await all((page) => client.listLabs({ params: { course }, query: page })))
      if (lab.name === name) found.push({ course, lab });
  const [only, other] = found;
  if (!only)
    throw new CarrelError(
      'not_found',
      `no lab ${name} in ${courses.length === 1 ? `course ${courses[0]}` : 'your courses'}`,
      {
        hint: 'see: carrel lab ls',
      },
    );
  if (other)
    throw new CarrelError('invalid_request', `several of your courses have a lab ${name}`, {
      hint: `say which: ${found.map(({ course }) => `${course}/${name}`).join(', ')}`,
    });
  return only.lab;
}

/** A submission by id, or your own newest one in a lab. */
export async function findSubmission(client: Client, word: string): Promise<Submission> {
  if (idOf('s').test(word)) return client.getSubmission({ params: { submission: word } });
  const lab = await findLab(client, word);
  const me = await client.getMe({ params: {} });
  const { items } = await client.listSubmissions({
    params: { lab: lab.id },
    query: { user: me.name, limit: 1 },
  });
  const [newest] = items;
  if (!newest)
    throw new CarrelError('not_found', `you have handed in nothing for ${lab.name}`, {
      hint: `carrel submit ${word} FILES`,
    });
  return newest;
}
