/* Frames on a stream socket, with queues, and one-line JSON. */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 5 };

void buf_add(struct buf *b, const void *data, size_t n) {
  if (b->start == b->end) b->start = b->end = 0;
  if (b->end + n > b->room) {
    if (b->start) {
      memmove(b->data, b->data + b->start, b->end - b->start);
      b->end -= b->start;
      b->start = 0;
    }
    if (b->end + n > b->room) {
      size_t room = b->room ? b->room : 4096;
      while (room < b->end + n) room *= 2;
      char *more = realloc(b->data, room);
      if (!more) _exit(125); /* nothing sensible is left to do: the client sees the connection end */
      b->data = more;
      b->room = room;
    }
  }
  if (n) memcpy(b->data + b->end, data, n);
  b->end += n;
}

void buf_take(struct buf *b, size_t n) {
  b->start += n;
  if (b->start >= b->end) b->start = b->end = 0;
}

void buf_free(struct buf *b) {
  free(b->data);
  *b = (struct buf){ 0 };
}

/* Descriptors may come along with any bytes; they wait in peer->passed for the plan that uses them. */
int peer_fill(struct peer *peer) {
  char data[CHUNK], control[CMSG_SPACE(sizeof(int) * MAX_PASSED)];
  struct iovec io = { data, sizeof data };
  struct msghdr message = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
  ssize_t n = recvmsg(peer->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : (peer->ended = true, -1);
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + sizeof fd * (size_t)i, sizeof fd);
      if (peer->npassed < MAX_PASSED) peer->passed[peer->npassed++] = fd;
      else close(fd);
    }
  }
  if (n == 0) { peer->ended = true; return -1; }
  buf_add(&peer->in, data, (size_t)n);
  return 0;
}

enum frame_result peer_frame(struct peer *peer, char *kind, char **payload, uint32_t *length) {
  if (buf_size(&peer->in) < HEADER) return FRAME_NONE;
  char *head = buf_data(&peer->in);
  *kind = head[0];
  memcpy(length, head + 1, 4);
  if (*length > (*kind == 'P' ? MAX_PLAN : MAX_INPUT)) return FRAME_BAD;
  if (buf_size(&peer->in) < HEADER + (size_t)*length) return FRAME_NONE;
  *payload = head + HEADER;
  return FRAME_READY;
}

void peer_consume(struct peer *peer, uint32_t length) { buf_take(&peer->in, HEADER + (size_t)length); }

void peer_send(struct peer *peer, char kind, const void *data, size_t n) {
  if (peer->ended) return;
  char head[HEADER] = { kind };
  uint32_t length = (uint32_t)n;
  memcpy(head + 1, &length, 4);
  buf_add(&peer->out, head, HEADER);
  buf_add(&peer->out, data, n);
}

int peer_flush(struct peer *peer) {
  while (!peer->ended && buf_size(&peer->out)) {
    ssize_t n = send(peer->fd, buf_data(&peer->out), buf_size(&peer->out), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n < 0) peer->ended = true;
    else buf_take(&peer->out, (size_t)n);
  }
  return peer->ended ? -1 : 0;
}

void peer_drain(struct peer *peer, int timeout_ms) {
  double end = now_ms() + timeout_ms;
  while (peer_flush(peer) == 0 && buf_size(&peer->out)) {
    struct pollfd p = { peer->fd, POLLOUT, 0 };
    double left = end - now_ms();
    if (left <= 0 || poll(&p, 1, (int)left + 1) == 0) { peer->ended = true; return; }
  }
}

void peer_close(struct peer *peer) {
  if (peer->fd >= 0) close(peer->fd);
  for (int i = 0; i < peer->npassed; i++)
    if (peer->passed[i] >= 0) close(peer->passed[i]);
  buf_free(&peer->in);
  buf_free(&peer->out);
  *peer = (struct peer){ .fd = -1, .ended = true };
}

static void json_put(struct json *j, const char *text) {
  size_t n = strlen(text);
  if (j->n + n >= sizeof j->text - 8) return; /* keys are few and objects cut to 255 bytes: cannot happen */
  memcpy(j->text + j->n, text, n + 1);
  j->n += n;
}

void json_open(struct json *j, const char *phase) {
  j->n = 0;
  json_put(j, "{\"phase\":\"");
  json_put(j, phase);
  json_put(j, "\"");
}

static void json_key(struct json *j, const char *key) {
  json_put(j, ",\"");
  json_put(j, key);
  json_put(j, "\":");
}

void json_text(struct json *j, const char *key, const char *value) {
  json_key(j, key);
  json_put(j, "\"");
  for (; *value; value++) {
    char piece[8];
    unsigned char c = (unsigned char)*value;
    /* Bytes above 127 may be cut or wrong UTF-8: shown as Latin-1 escapes, so that the line always parses. */
    if (c < 32 || c > 126) snprintf(piece, sizeof piece, "\\u%04x", c);
    else if (c == '"' || c == '\\') snprintf(piece, sizeof piece, "\\%c", c);
    else snprintf(piece, sizeof piece, "%c", c);
    json_put(j, piece);
  }
  json_put(j, "\"");
}

void json_number(struct json *j, const char *key, double value) {
  char text[40];
  snprintf(text, sizeof text, "%.16g", value);
  json_raw(j, key, text);
}

void json_raw(struct json *j, const char *key, const char *value) {
  json_key(j, key);
  json_put(j, value);
}

void json_close(struct json *j) { json_put(j, "}"); }
