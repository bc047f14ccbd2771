import { listOf, page } from '../schemas/common.ts';
import { course, courseChange, member, memberChange, newCourse } from '../schemas/people.ts';
import type { Route } from '../route.ts';

/** Courses and their members. `{course}` is an id or a name. */
export const courseRoutes = {
  listCourses: {
    method: 'GET',
    path: '/v1/courses',
    doc: 'List your courses',
    access: 'user',
    query: page,
    reply: listOf(course),
  },
  createCourse: {
    method: 'POST',
    path: '/v1/courses',
    doc: 'Make a course; you become its instructor',
    access: 'admin',
    body: newCourse,
    reply: course,
    status: 201,
    idempotent: true,
  },
  getCourse: {
    method: 'GET',
    path: '/v1/courses/{course}',
    doc: 'One course',
    access: 'course:member',
    reply: course,
    etag: true,
  },
  changeCourse: {
    method: 'PATCH',
    path: '/v1/courses/{course}',
    doc: 'Change a course',
    access: 'course:instructor',
    body: courseChange,
    reply: course,
    etag: true,
  },
  listMembers: {
    method: 'GET',
    path: '/v1/courses/{course}/members',
    doc: 'Who is in the course: instructors, then TAs, then students',
    access: 'course:staff',
    query: page,
    reply: listOf(member),
  },
  getMember: {
    method: 'GET',
    path: '/v1/courses/{course}/members/{user}',
    doc: 'One member, by name',
    access: 'course:staff',
    reply: member,
    etag: true,
  },
  setMember: {
    method: 'PUT',
    path: '/v1/courses/{course}/members/{user}',
    doc: 'Add someone to the course, or change their role',
    access: 'course:instructor',
    body: memberChange,
    reply: member,
    etag: true,
  },
  removeMember: {
    method: 'DELETE',
    path: '/v1/courses/{course}/members/{user}',
    doc: 'Remove someone from the course; their submissions stay',
    access: 'course:instructor',
    status: 204,
    conditional: true,
  },
} as const satisfies Record<string, Route>;
