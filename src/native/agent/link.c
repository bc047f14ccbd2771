/* Frames on the port. Only what has been greeted by this connection's hello counts. */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

static const uint32_t magic = 0xc4a77e1u, mark = 0x1ee77a4cu; /* any numbers without a zero byte */

struct link host = { .fd = -1 };

static uint32_t get32(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

void put32(unsigned char *p, uint32_t v) {
  for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

void put64(unsigned char *p, uint64_t v) {
  for (int i = 0; i < 8; i++) p[i] = (unsigned char)(v >> 8 * i);
}

void link_send2(enum type type, uint32_t channel, const void *a, size_t na, const void *b, size_t nb) {
  unsigned char head[HEAD], tail[MARK];
  if (!host.greeted || na + nb > MAX_PAYLOAD) return; /* nobody makes longer ones */
  put32(head, magic);
  put32(head + 4, (uint32_t)(na + nb));
  put32(head + 8, (uint32_t)type); /* the upper half is the flags: none */
  put32(head + 12, channel);
  put32(tail, mark);
  buf_add(&host.out, head, HEAD);
  buf_add(&host.out, a, na);
  buf_add(&host.out, b, nb);
  buf_add(&host.out, tail, MARK);
}

void link_send(enum type type, uint32_t channel, const void *data, size_t n) { link_send2(type, channel, data, n, NULL, 0); }

void link_reset(void) {
  buf_take(&host.in, buf_size(&host.in));
  buf_take(&host.out, buf_size(&host.out));
  host.greeted = host.lost = false;
}

int link_fill(void) {
  char data[PIECE];
  while (buf_size(&host.in) < HEAD + MAX_PAYLOAD + MARK) {
    ssize_t n = read(host.fd, data, sizeof data);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) return -1;
    buf_add(&host.in, data, (size_t)n);
  }
  return 0;
}

int link_flush(void) {
  while (buf_size(&host.out)) {
    size_t size = buf_size(&host.out);
    ssize_t n = write(host.fd, buf_data(&host.out), size < PIECE ? size : PIECE);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) return 0;
    buf_take(&host.out, (size_t)n);
  }
  return 0;
}

/* Throws away bytes up to where a frame may begin: a connection was cut in the middle of one. */
static void skip(void) {
  unsigned char *data = (unsigned char *)buf_data(&host.in);
  size_t size = buf_size(&host.in);
  unsigned char *next = size > 1 ? memchr(data + 1, (int)(magic & 0xff), size - 1) : NULL;
  host.lost = true;
  buf_take(&host.in, next ? (size_t)(next - data) : size);
}

bool link_frame(struct frame *f) {
  while (buf_size(&host.in) >= HEAD) {
    unsigned char *p = (unsigned char *)buf_data(&host.in);
    uint32_t length = get32(p + 4), kind = get32(p + 8);
    bool hello = kind == T_HELLO && length == 4 + NONCE;
    if (get32(p) != magic || length > MAX_PAYLOAD || ((host.lost || !host.greeted) && !hello)) { skip(); continue; }
    if (buf_size(&host.in) < HEAD + (size_t)length + MARK) return false;
    if (get32(p + HEAD + length) != mark) { skip(); continue; }
    host.lost = false;
    *f = (struct frame){ (uint16_t)kind, (uint16_t)(kind >> 16), get32(p + 12), length, p + HEAD };
    return true;
  }
  return false;
}

void link_consume(const struct frame *f) { buf_take(&host.in, HEAD + (size_t)f->length + MARK); }

/* ---- reading a payload ---- */

const unsigned char *in_bytes(struct in *in, size_t n) {
  if (in->bad || n > in_left(in)) { in->bad = true; return NULL; }
  const unsigned char *p = in->at;
  in->at += n;
  return p;
}

uint8_t in_u8(struct in *in) {
  const unsigned char *p = in_bytes(in, 1);
  return p ? p[0] : 0;
}

uint16_t in_u16(struct in *in) {
  const unsigned char *p = in_bytes(in, 2);
  return p ? (uint16_t)(p[0] | p[1] << 8) : 0;
}

uint32_t in_u32(struct in *in) {
  const unsigned char *p = in_bytes(in, 4);
  return p ? get32(p) : 0;
}

uint64_t in_u64(struct in *in) {
  uint64_t low = in_u32(in), high = in_u32(in);
  return low | high << 32;
}

/* A length, that many bytes, of which the last is the only NUL. */
const char *in_text(struct in *in) {
  uint32_t n = in_u32(in);
  const char *p = (const char *)in_bytes(in, n);
  if (p && n && strnlen(p, n) == n - 1) return p;
  in->bad = true;
  return "";
}
