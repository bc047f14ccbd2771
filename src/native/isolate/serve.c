/* The fork server: small, and started before its client grows, so a fork costs what this program costs. */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int machine_target = -1;
int self_fd = -1;

static bool ours(int fd) {
  struct ucred c;
  socklen_t n = sizeof c;
  return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) && (c.uid == geteuid() || c.uid == 0);
}

static int protocol_error(struct peer *client, const char *why) {
  struct json j;
  json_open(&j, "error");
  json_text(&j, "stage", "plan");
  json_text(&j, "op", "plan");
  json_text(&j, "object", why);
  json_number(&j, "errno", EINVAL);
  json_text(&j, "code", "EINVAL");
  json_text(&j, "message", why);
  json_close(&j);
  peer_send(client, 'J', j.text, j.n);
  peer_drain(client, 5000);
  return -1;
}

/* Plans one after the other, until the client leaves. */
_Noreturn static void session(int fd) {
  static struct peer client;
  client = (struct peer){ .fd = fd };
  for (;;) {
    char kind, *payload, why[128];
    uint32_t length;
    enum frame_result r = peer_frame(&client, &kind, &payload, &length);
    if (r == FRAME_BAD) _exit(protocol_error(&client, "a frame is too long"));
    if (r == FRAME_NONE) {
      struct pollfd p = { fd, POLLIN, 0 };
      if (poll(&p, 1, -1) < 0 && errno != EINTR) _exit(1);
      if (p.revents && peer_fill(&client)) _exit(0);
      continue;
    }
    if (kind != 'P') { /* input, resize, kill: for a run that has ended meanwhile */
      peer_consume(&client, length);
      continue;
    }
    struct plan plan;
    int bad = plan_parse(&plan, payload, length, why, sizeof why);
    peer_consume(&client, length);
    if (bad) protocol_error(&client, why);
    else if (run_plan(&client, &plan)) _exit(0);
    for (int i = 0; i < client.npassed; i++)
      if (client.passed[i] >= 0) close(client.passed[i]);
    client.npassed = 0;
  }
}

static void start_session(int listener, int fd, int lifeline) {
  pid_t server = getpid(), pid = fork();
  if (pid == 0) {
    signal(SIGCHLD, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != server) _exit(1);
    close(listener);
    if (lifeline >= 0) { /* its end must be the server's alone */
      int null = open("/dev/null", O_RDWR | O_CLOEXEC);
      dup2(null, lifeline);
      close(null);
    }
    session(fd);
  }
  close(fd); /* fork failed: the client sees the end of the connection */
}

_Noreturn void serve_on(int listener, int lifeline) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_IGN); /* sessions are reaped by the kernel */
  for (;;) {
    struct pollfd p[2] = { { listener, POLLIN, 0 }, { lifeline, POLLIN, 0 } };
    if (poll(p, 2, -1) < 0 && errno != EINTR) _exit(1);
    if (p[1].revents) {
      char drop[64];
      if (read(lifeline, drop, sizeof drop) <= 0) _exit(0); /* sessions die with us */
    }
    if (!p[0].revents) continue;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) continue;
    if (ours(fd)) start_session(listener, fd, lifeline);
    else close(fd);
  }
}

int serve(const char *path) {
  if (geteuid() == 0 && setgroups(0, NULL)) return perror("isolate: setgroups"), 1;
  if (chdir("/")) return perror("isolate: /"), 1;
  umask(022);
  int listener = listen_on(path);
  if (listener < 0) return fprintf(stderr, "isolate: %s: %s\n", path, strerror(errno)), 1;
  prctl(PR_SET_NAME, "isolate-serve");
  printf("ready\n"); /* the client may connect now */
  fflush(stdout);
  serve_on(listener, 0);
}
