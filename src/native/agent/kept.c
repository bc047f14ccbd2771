/*
 * Programs that go on when nobody waits, and whoever looks at them. Output has absolute byte numbers; the first
 * MiB is kept, and the last one in a ring: byte n (n >= HEAD_BYTES) stands at (n - HEAD_BYTES) % RING_BYTES.
 */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { HEAD_BYTES = 1 << 20, RING_BYTES = 1 << 20, RECORD_BYTES = HEAD_BYTES + RING_BYTES, ID_BYTES = 65 };

struct kept {
  bool used, dropped;
  char id[ID_BYTES];
  struct program program;
  uint64_t total;
  char *record;
  uint32_t starter, dropper; /* channels that wait for an answer */
};
static struct kept all[MAX_KEPT];

static struct kept *find(const char *id) {
  for (int i = 0; i < MAX_KEPT; i++)
    if (all[i].used && !strcmp(all[i].id, id)) return &all[i];
  return NULL;
}

struct program *kept_program(struct kept *k) { return &k->program; }

void kept_forget_waiters(void) {
  for (int i = 0; i < MAX_KEPT; i++) all[i].starter = all[i].dropper = 0;
}

static void forget(struct kept *k) {
  for (int i = 0; i < MAX_CHANNELS; i++)
    if (channels[i].kind == C_VIEW && channels[i].kept == k) {
      channel_failed(channels[i].id, "dropped", ENOENT);
      channel_free(&channels[i]);
    }
  if (k->dropper) link_send(T_DONE, k->dropper, NULL, 0);
  program_close(&k->program);
  if (k->record) munmap(k->record, RECORD_BYTES);
  *k = (struct kept){ 0 };
}

/* Their records may take a quarter of the memory; untouched pages cost nothing. */
static struct kept *vacancy(void) {
  struct kept *place = NULL;
  uint64_t n = 1;
  for (int i = 0; i < MAX_KEPT; i++)
    if (all[i].used) n++;
    else if (!place) place = &all[i];
  if (n > 4 && n * RECORD_BYTES > memory_bytes() / 4) return NULL;
  return place;
}

void kept_start(uint32_t id, struct in *in) {
  struct request r;
  const char *name = in_text(in);
  int error = request_read(in, &r);
  struct kept *k = error ? NULL : vacancy();
  if (!error && (!*name || strlen(name) >= ID_BYTES)) error = EINVAL;
  if (!error && find(name)) error = EEXIST;
  if (!error && !k) error = EAGAIN;
  char *record = error ? MAP_FAILED : mmap(NULL, RECORD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!error && record == MAP_FAILED) error = errno;
  if (!error) {
    madvise(record, RECORD_BYTES, MADV_DONTFORK);
    *k = (struct kept){ .used = true, .record = record, .starter = id };
    memcpy(k->id, name, strlen(name) + 1);
    error = program_start(&k->program, &r, true);
    if (error) k->starter = 0, forget(k);
  }
  if (error) channel_failed(id, "keep", error);
  request_free(&r);
}

void kept_drop(uint32_t id, struct in *in) {
  const char *name = in_text(in);
  struct kept *k = find(name);
  if (in->bad) { channel_failed(id, "request", EBADMSG); return; }
  if (!k) { link_send(T_DONE, id, NULL, 0); return; }
  k->dropper = id;
  k->dropped = true;
  program_kill(&k->program, R_CANCELLED);
}

/* ---- the record ---- */

static char *place_of(const struct kept *k, uint64_t at, size_t *room) {
  uint64_t place = at < HEAD_BYTES ? at : HEAD_BYTES + (at - HEAD_BYTES) % RING_BYTES;
  *room = (size_t)((at < HEAD_BYTES ? HEAD_BYTES : RECORD_BYTES) - place);
  return k->record + place;
}

static void record(struct kept *k, const char *data, size_t n) {
  while (n) {
    size_t room;
    char *place = place_of(k, k->total, &room);
    size_t piece = n < room ? n : room;
    memcpy(place, data, piece);
    data += piece, n -= piece, k->total += piece;
  }
}

/* The first byte from `at` on that is still there. */
static uint64_t still_there(const struct kept *k, uint64_t at) {
  uint64_t ring = k->total > RECORD_BYTES ? k->total - RING_BYTES : HEAD_BYTES;
  if (at > k->total) return k->total;
  return at >= HEAD_BYTES && at < ring ? ring : at;
}

/* ---- steps ---- */

static bool step(struct kept *k) {
  static char data[PIECE];
  struct program *p = &k->program;
  bool moved = program_news(p);
  if (!p->starting && k->starter && !p->trouble.error) link_send(T_DONE, k->starter, NULL, 0), k->starter = 0;
  program_give(p);
  if (p->out[0] >= 0) {
    ssize_t n = program_take(p, 0, data, sizeof data);
    if (n > 0) record(k, data, (size_t)n);
    moved |= n > 0 || p->out[0] < 0;
  }
  if (p->ended && p->trouble.error && k->starter) channel_failed(k->starter, p->trouble.stage, p->trouble.error);
  if (p->ended && (k->dropped || p->trouble.error)) return forget(k), true;
  return moved;
}

bool kept_step(void) {
  bool moved = false;
  for (int i = 0; i < MAX_KEPT; i++)
    if (all[i].used) moved |= step(&all[i]);
  return moved;
}

void kept_reap(void) {
  for (int i = 0; i < MAX_KEPT; i++)
    if (all[i].used) program_reap(&all[i].program);
}

size_t kept_poll(struct pollfd *p, size_t room) {
  size_t n = 0;
  for (int i = 0; i < MAX_KEPT; i++) {
    struct program *one = &all[i].program;
    if (!all[i].used || n + 3 > room) continue;
    if (one->starting) p[n++] = (struct pollfd){ one->status, POLLIN, 0 };
    if (one->out[0] >= 0) p[n++] = (struct pollfd){ one->out[0], POLLIN, 0 };
    if (one->in >= 0 && buf_size(&one->input)) p[n++] = (struct pollfd){ one->in, POLLOUT, 0 };
  }
  return n;
}

/* ---- views ---- */

void kept_attach(uint32_t id, struct in *in) {
  unsigned char answer[12];
  const char *name = in_text(in);
  uint64_t from = in_u64(in);
  uint32_t credit = in_u32(in);
  struct kept *k = find(name);
  if (in->bad || !k || k->dropped) { channel_failed(id, "attach", in->bad ? EBADMSG : ENOENT); return; }
  struct channel *c = channel_new(C_VIEW, id);
  if (!c) return;
  c->kept = k, c->offset = from, c->credit = credit;
  put64(answer, k->total);
  put32(answer + 8, k->program.tty);
  link_send(T_ATTACHED, id, answer, sizeof answer);
}

bool view_step(struct channel *c) {
  struct kept *k = c->kept;
  unsigned char offset[8], end[ENDED_BYTES];
  bool moved = false;
  channel_taken(c, buf_size(&k->program.input) ? c->outstanding : 0);
  c->offset = still_there(k, c->offset);
  if (c->offset < k->total && c->credit && link_room()) {
    size_t room;
    const char *data = place_of(k, c->offset, &room);
    size_t n = room < PIECE ? room : PIECE;
    if (n > k->total - c->offset) n = (size_t)(k->total - c->offset);
    if (n > c->credit) n = (size_t)c->credit;
    put64(offset, c->offset);
    link_send2(T_RECORD, c->id, offset, sizeof offset, data, n);
    c->offset += n, c->credit -= n, moved = true;
  }
  if (c->offset < k->total || !program_done(&k->program)) return moved;
  link_send(T_ENDED, c->id, end, ended_frame(&k->program, end));
  channel_free(c);
  return true;
}
