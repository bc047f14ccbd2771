/* Programs that somebody waits for, and jobs: both are a child whose end is the answer. */
#include "agent.h"
#include <errno.h>
#include <sys/wait.h>

void run_request(uint32_t id, struct in *in) {
  struct request r;
  uint32_t credit = in_u32(in);
  int error = request_read(in, &r);
  struct channel *c = error ? (channel_failed(id, "request", error), NULL) : channel_new(C_RUN, id);
  if (c) {
    c->credit = credit;
    error = program_start(&c->program, &r, false);
    if (error) channel_failed(id, "start", error), channel_free(c);
  }
  request_free(&r);
}

static bool pass_output(struct channel *c) {
  static char data[PIECE];
  bool moved = false;
  for (int i = 0; i < 2; i++) {
    if (c->program.out[i] < 0 || !c->credit || !link_room()) continue;
    ssize_t n = program_take(&c->program, i, data, c->credit < PIECE ? (size_t)c->credit : PIECE);
    moved |= n > 0 || c->program.out[i] < 0;
    if (n <= 0) continue;
    c->credit -= (uint64_t)n;
    link_send(i ? T_STDERR : T_STDOUT, c->id, data, (size_t)n);
  }
  return moved;
}

/* How it ended; or why it never was under way. */
static void tell_end(const struct channel *c) {
  const struct program *p = &c->program;
  unsigned char end[ENDED_BYTES];
  if (p->trouble.error) channel_failed(c->id, p->trouble.stage, p->trouble.error);
  else if (c->kind == C_RUN) link_send(T_ENDED, c->id, end, ended_frame(p, end));
  else if (p->reason == R_WALL) channel_failed(c->id, "limit", ETIMEDOUT);
  else if (p->exit_status) channel_failed(c->id, "status", EIO);
  else link_send(T_DONE, c->id, NULL, 0);
}

/* What an identity wrote reaches the disk soon, too; nobody waits for it. */
static void settle_disk(void) {
  struct in nothing = { 0 };
  struct channel *c = channel_new(C_JOB, UINT32_MAX);
  if (!c) return;
  c->id = 0;
  if (program_job(&c->program, sync_later_job, &nothing, 0)) channel_free(c);
}

bool run_step(struct channel *c) {
  struct program *p = &c->program;
  if (program_news(p) && !p->trouble.error && c->kind == C_RUN && c->id) {
    unsigned char pid[4];
    put32(pid, (uint32_t)p->pid);
    link_send(T_STARTED, c->id, pid, sizeof pid);
  }
  if (c->settle && c->id && !p->starting && !p->trouble.error) {
    /* It is somebody now, and its ssh server is being started: nobody waits for that here. */
    link_send(T_DONE, c->id, NULL, 0);
    c->id = 0;
  }
  program_give(p);
  channel_taken(c, buf_size(&p->input));
  if (!c->id) { /* abandoned */
    if (!p->ended) return false;
    bool settle = c->settle;
    channel_free(c);
    if (settle) settle_disk();
    return true;
  }
  bool moved = !p->starting && pass_output(c);
  if (!program_done(p)) return moved;
  tell_end(c);
  channel_free(c);
  return true;
}
