/** Courses and their members. */
import type { courseRoutes } from '#contract/routes/courses.ts';
import {
  changeCourse,
  createCourse,
  getCourse,
  getMember,
  listCourses,
  listMembers,
  removeMember,
  setMember,
} from '#classroom/courses.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import { answer } from '../http/answer.ts';
import { requireMatch } from '../http/etag.ts';

export function courseHandlers({ db }: { readonly db: Db }): HandlersFor<typeof courseRoutes> {
  return {
    listCourses: ({ query }, { actor }) => listCourses(db, actor, query),
    createCourse: ({ body }, { actor }) => createCourse(db, actor, body),

    async getCourse({ params }, { actor }) {
      const { course, etag } = await getCourse(db, actor, params.course);
      return answer(course, { etag });
    },

    async changeCourse({ params, body }, { actor, ifMatch }) {
      const { course, etag } = await changeCourse(db, actor, params.course, body, (seen) =>
        requireMatch(ifMatch, seen, 'the course'),
      );
      return answer(course, { etag });
    },

    listMembers: ({ params, query }) => listMembers(db, params.course, query),

    async getMember({ params }) {
      const { member, etag } = await getMember(db, params.course, params.user);
      return answer(member, { etag });
    },

    async setMember({ params, body }, { actor, ifMatch }) {
      const { member, etag } = await setMember(db, actor, params.course, params.user, body, (seen) =>
        requireMatch(ifMatch, seen, 'the member'),
      );
      return answer(member, { etag });
    },

    async removeMember({ params }, { actor, ifMatch }) {
      await removeMember(db, actor, params.course, params.user, (seen) =>
        requireMatch(ifMatch, seen, 'the member'),
      );
      return undefined;
    },
  };
}
