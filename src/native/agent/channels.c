/* Channels: one per request that takes time. The host numbers them, and never twice in one connection. */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct channel channels[MAX_CHANNELS];

void channel_failed(uint32_t id, const char *stage, int error) {
  unsigned char number[4];
  put32(number, (uint32_t)error);
  if (id) link_send2(T_FAILED, id, number, sizeof number, stage, strlen(stage));
}

static struct channel *find(uint32_t id) {
  for (int i = 0; id && i < MAX_CHANNELS; i++)
    if (channels[i].kind != C_FREE && channels[i].id == id) return &channels[i];
  return NULL;
}

struct channel *channel_new(enum kind kind, uint32_t id) {
  if (!id || find(id)) return channel_failed(id, "channel", EEXIST), NULL;
  for (int i = 0; i < MAX_CHANNELS; i++) {
    struct channel *c = &channels[i];
    if (c->kind != C_FREE) continue;
    *c = (struct channel){ .kind = kind, .id = id, .file = -1, .directory = -1 };
    c->program.status = c->program.in = c->program.out[0] = c->program.out[1] = -1;
    return c;
  }
  return channel_failed(id, "channels", EAGAIN), NULL;
}

void channel_free(struct channel *c) {
  program_close(&c->program);
  if (c->file >= 0) close(c->file);
  if (c->directory >= 0) close(c->directory);
  free(c->path);
  *c = (struct channel){ .kind = C_FREE };
}

void channel_taken(struct channel *c, size_t waiting) {
  unsigned char bytes[4];
  if (waiting >= c->outstanding || (waiting && c->outstanding - waiting < WINDOW / 4)) return;
  put32(bytes, (uint32_t)(c->outstanding - waiting));
  c->outstanding = waiting;
  if (c->id) link_send(T_TAKEN, c->id, bytes, sizeof bytes);
}

/* Nobody waits for it any more. What runs is killed, and goes when it has been reaped. */
static void abandon(struct channel *c) {
  c->id = 0;
  if (c->kind == C_WRITE) write_abandon(c);
  if (c->kind == C_RUN) program_kill(&c->program, R_CANCELLED);
  else if (c->kind != C_JOB && c->kind != C_FREE) channel_free(c); /* a job goes on: half an identity is worse */
}

void channels_reset(void) {
  for (int i = 0; i < MAX_CHANNELS; i++) abandon(&channels[i]);
  kept_forget_waiters();
}

/* ---- jobs ---- */

enum { JOB_MS = 30000 };

static struct channel *job(uint32_t id, int (*work)(struct in *), struct in *in) {
  struct channel *c = channel_new(C_JOB, id);
  int error = c ? program_job(&c->program, work, in, JOB_MS) : 0;
  if (!error) return c;
  channel_failed(id, "fork", error);
  return channel_free(c), NULL;
}

static void identify_request(uint32_t id, struct in *in) {
  struct channel *c = job(id, identify_job, in);
  if (c) c->settle = true;
}

/* ---- what comes in ---- */

static void input(struct channel *c, const struct frame *f) {
  if (c->kind == C_WRITE) { write_piece(c, f->payload, f->length); return; }
  struct program *p = c->kind == C_RUN ? &c->program : c->kind == C_VIEW ? kept_program(c->kept) : NULL;
  if (!p || c->outstanding + f->length > WINDOW) {
    channel_failed(c->id, "input", p ? ENOBUFS : EINVAL);
    abandon(c);
    return;
  }
  c->outstanding += f->length;
  if (p->in >= 0 && !p->input_ended) buf_add(&p->input, f->payload, f->length);
}

/* For a channel that exists; what comes for one that has just ended is late, and no mistake. */
static void to_channel(struct channel *c, const struct frame *f, struct in *in) {
  struct program *p = c->kind == C_RUN ? &c->program : c->kind == C_VIEW ? kept_program(c->kept) : NULL;
  switch (f->type) {
    case T_INPUT: input(c, f); break;
    case T_INPUT_END:
      if (c->kind == C_WRITE) write_finish(c);
      else if (c->kind == C_RUN) p->input_ended = true;
      break;
    case T_CREDIT: c->credit += in_u32(in); break;
    case T_KILL: if (p) program_kill(p, R_CANCELLED); break;
    case T_RESIZE: {
      uint16_t rows = in_u16(in), columns = in_u16(in);
      if (p && !in->bad) program_resize(p, rows, columns);
      break;
    }
    case T_CLOSE: abandon(c); break;
  }
}

static void request(uint16_t type, uint32_t id, struct in *in) {
  switch (type) {
    case T_RUN: run_request(id, in); break;
    case T_KEEP: kept_start(id, in); break;
    case T_ATTACH: kept_attach(id, in); break;
    case T_DROP: kept_drop(id, in); break;
    case T_READ: read_request(id, in); break;
    case T_WRITE: write_request(id, in); break;
    case T_IDENTIFY: identify_request(id, in); break;
    case T_GROW: job(id, grow_job, in); break;
    case T_SYNC: job(id, sync_job, in); break;
    case T_POWER: power_request(id, in); break;
    case T_USAGE: usage_request(id); break;
    default: channel_failed(id, "request", ENOSYS);
  }
}

/* A request longer than a frame: its parts follow one another. */
static struct { struct buf bytes; uint16_t type; uint32_t channel; } part;

static bool gather(const struct frame *f) {
  if (buf_size(&part.bytes) && (part.type != f->type || part.channel != f->channel)) buf_free(&part.bytes);
  if (!(f->flags & FLAG_MORE) && !buf_size(&part.bytes)) return false; /* the usual case: all in one */
  part.type = f->type, part.channel = f->channel;
  if (buf_size(&part.bytes) + f->length > MAX_REQUEST) {
    buf_free(&part.bytes);
    channel_failed(f->channel, "request", E2BIG);
    return true;
  }
  buf_add(&part.bytes, f->payload, f->length);
  if (f->flags & FLAG_MORE) return true;
  struct in in = { (unsigned char *)buf_data(&part.bytes), (unsigned char *)buf_data(&part.bytes) + buf_size(&part.bytes), false };
  request(f->type, f->channel, &in);
  buf_free(&part.bytes);
  return true;
}

/* A connection begins, or asks again whether it has begun. */
static void hello(const struct frame *f) {
  unsigned char answer[4 + NONCE];
  char boot[64];
  if (!host.greeted || memcmp(host.nonce, f->payload + 4, NONCE)) {
    channels_reset();
    buf_free(&part.bytes);
    buf_take(&host.out, buf_size(&host.out));
    memcpy(host.nonce, f->payload + 4, NONCE);
    host.greeted = true;
  }
  put32(answer, PROTOCOL);
  memcpy(answer + 4, host.nonce, NONCE);
  int n = read_file("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
  link_send2(T_WELCOME, 0, answer, sizeof answer, boot, n > 0 ? strcspn(boot, "\n") : 0);
}

void channel_obey(const struct frame *f) {
  struct in in = { f->payload, f->payload + f->length, false };
  struct channel *c = find(f->channel);
  if (f->type == T_HELLO) hello(f);
  else if (f->type == T_PING) link_send(T_DONE, f->channel, NULL, 0);
  else if (f->type == T_INPUT || f->type == T_INPUT_END || f->type == T_CREDIT || f->type == T_KILL || f->type == T_RESIZE || f->type == T_CLOSE) {
    if (c) to_channel(c, f, &in);
  } else if (!gather(f)) request(f->type, f->channel, &in);
}
