/*
 * isolate: runs programs in fresh namespaces, as a fork server or as a plain command.
 *
 *   main.c     the command line
 *   serve.c    the fork server: one process ("session") per connection
 *   plan.c     a plan is a list of operations; the table says what each one does, and where
 *   session.c  one run: clone, hand over, watch, report
 *   watch.c    the poll loop: output, input, limits, peers
 *   prepare.c  the child of the next run, cloned while nobody waits
 *   keep.c     runs that outlive their client: record, lock, control socket, exec server
 *   op_*.c     the operations
 *   init.c     process 1: of a sandbox, and of a machine
 *   seccomp.c  the system call filters
 *   shell.c    `isolate PROGRAM [ARGS...]`
 */
#ifndef ISOLATE_H
#define ISOLATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/types.h>

enum {
  MAX_OPS = 4096,
  MAX_ARGS = 5,
  MAX_PLAN = 1 << 20,      /* bytes of one plan: a longer one is refused unread */
  MAX_INPUT = 256 << 10,   /* bytes of one input frame */
  MAX_BACKLOG = 1 << 20,   /* bytes queued for one peer before output waits, or, of a kept run, leaves a gap */
  MAX_PEERS = 32,
  MAX_COUNTERS = 8,
  MAX_STDIO = 8,           /* 0, 1, 2, the result pipe, and descriptors that the program gets besides */
  MAX_PASSED = 8,          /* descriptors that may come along with a plan */
  CHUNK = 64 << 10,
};

/* ---- buffers and peers (frames.c) ---- */
struct buf { char *data; size_t start, end, room; };
void buf_add(struct buf *, const void *, size_t);
void buf_take(struct buf *, size_t);
void buf_free(struct buf *);
static inline size_t buf_size(const struct buf *b) { return b->end - b->start; }
static inline char *buf_data(const struct buf *b) { return b->data + b->start; }

/* A connection that speaks frames: one byte kind, four bytes length (little endian), payload. */
struct peer { int fd; bool ended, behind; struct buf in, out; int passed[MAX_PASSED]; int npassed; };
enum frame_result { FRAME_NONE, FRAME_READY, FRAME_BAD };
int peer_fill(struct peer *);                        /* reads what is there; -1 when the other side is gone */
enum frame_result peer_frame(struct peer *, char *kind, char **payload, uint32_t *length); /* does not consume */
void peer_consume(struct peer *, uint32_t length);
void peer_send(struct peer *, char kind, const void *, size_t);
int peer_flush(struct peer *);                       /* writes what fits; -1 when the other side is gone */
void peer_drain(struct peer *, int timeout_ms);      /* writes everything, or gives up */
void peer_close(struct peer *);

/* ---- JSON (frames.c): just enough to write one flat line ---- */
struct json { char text[4096]; size_t n; };
void json_open(struct json *, const char *phase);
void json_text(struct json *, const char *key, const char *value);
void json_number(struct json *, const char *key, double value);
void json_raw(struct json *, const char *key, const char *value);
void json_close(struct json *);

/* ---- plans (plan.c) ---- */
struct run;
struct op;
typedef int op_fn(struct run *, struct op *); /* 0, or -1 with errno; run->object names what failed */
struct op_def {
  const char *name;
  int nargs;
  op_fn *before; /* in the session, before the clone */
  op_fn *after;  /* in the session, when the child exists and waits */
  op_fn *child;  /* in the child */
};
struct op { const struct op_def *def; char *arg[MAX_ARGS]; int fd; };
struct plan { struct op *op; int n; char *text; size_t length; };
int plan_parse(struct plan *, const char *text, size_t length, char *why, size_t whysize);
void plan_free(struct plan *);

/* ---- one run ---- */
enum stdio_kind { IO_NULL, IO_INHERIT, IO_PIPE, IO_FD, IO_CLOSED };
struct counter { const char *name, *path, *key; double scale; double first, last; };
struct record; /* keep.c */
struct keep { int lock, listener, exec_listener; const char *socket, *report, *exec_socket; struct record *record; pid_t exec_server; bool on; };
struct run {
  struct plan plan;
  struct peer *client; /* who sent the plan; NULL for the shell command */
  struct peer **peers; int npeers; /* everyone who sees the output; the client is one of them */
  char object[256];    /* what the failing operation worked on */
  const char *what;    /* the system call or step that failed, if not the operation itself */

  /* what "before" operations decide */
  uint64_t namespaces; /* clone3 flags */
  int cgroup;          /* v2 directory to be born in, or -1 */
  int target;          /* pidfd whose namespaces are joined, or -1 */
  uint64_t join;       /* which of them */
  char uid_map[512], gid_map[512];
  bool deny_setgroups;
  struct { enum stdio_kind kind; int theirs, ours; } stdio[MAX_STDIO];
  bool tty; int rows, columns;
  double wall_ms, cpu_ms, output_bytes; /* 0: no limit */
  struct counter counter[MAX_COUNTERS]; int ncounters;
  struct keep keep;
  int held_mounts; /* the child's mount namespace: taken apart after the answer, not before; or -1 */
  int held_net; /* a network namespace kept alive for the length of the run, or -1 */

  /* the child */
  pid_t pid; int pidfd, status; /* status: socket to the child */
  int late_root;                /* a tree opened while the child waited, handed over with "go"; or -1 */
  int work;                     /* its work directory, handed over; or -1 */
  bool separate_init;           /* process 1 is ours, the program is its child */
  bool started;
  bool own_mounts;              /* the session is in a mount namespace of its own */
  int ahead;                    /* operations before this index have run in the child already */
  bool prepare, prepared;       /* clone the next child ahead; this one was */
  double began;                 /* ms, monotonic */
  struct buf input; bool input_ended;
  double out; bool killed; const char *reason;
  int exit_status; bool has_exit; struct rusage usage; int exec_errno;

  /* the child's own view */
  char **argv, **envp; int argc, envc; bool self; const char *cwd;
  int error_op; /* index of the operation at work */
};

/* Notes from the child to the session, one packet each. */
enum note_kind { NOTE_ERROR, NOTE_EXEC, NOTE_EXIT, NOTE_WORK, NOTE_PTY };
struct note { int kind, op, number; struct rusage usage; char object[256]; };
int note_send(int socket, const struct note *, int fd);
int note_receive(int socket, struct note *, int *fd); /* bytes, 0 at the end, -1 */

int run_plan(struct peer *client, struct plan *);     /* answers the client; -1 when it is gone */
int run_execute(struct run *);                        /* before, clone, after, watch: 0, or -1 after an error frame */
void run_init(struct run *, struct peer *client, struct plan *);
void run_kill(struct run *, const char *reason);
void run_error(struct run *, const char *stage, int op, int error);
void run_watch(struct run *);
void run_broadcast(struct run *, char kind, const void *, size_t);
void run_note(struct run *, const struct note *, int fd);
void run_report(struct run *, struct json *);
int run_sync(struct run *);
_Noreturn void child_main(struct run *);
_Noreturn void child_run(struct run *);
int write_maps(struct run *);
_Noreturn void child_fail(struct run *, int error);
int die_with_session(const struct run *);
void session_unmount(struct run *);
int copy_into(struct run *, const char *from, const char *to);
void collect_files(struct run *);

/* ---- prepare.c ---- */
void prepare_next(struct run *);
void prepare_drop(void);
bool prepare_take(struct run *);
int prepare_go(struct run *);

/* ---- keep.c ---- */
void keep_start(struct run *);                        /* the child runs: tell the world */
void keep_output(struct run *, const char *, size_t);
void keep_accept(struct run *);
void keep_end(struct run *, const char *report);
uint64_t keep_offset(const struct run *);

/* ---- serve.c ---- */
extern int machine_target;                            /* pidfd of the machine an exec server belongs to, or -1 */
_Noreturn void serve_on(int listener, int lifeline);  /* lifeline: a descriptor whose end of file ends us; or -1 */
int serve(const char *path);

/* ---- the rest ---- */
int shell(int argc, char **argv);
_Noreturn void sandbox_init(struct run *, pid_t program);
int machine_init(void);
int seccomp_install(const char *profile);
extern int self_fd;                                   /* our own binary, to be executed without a path */

/* helpers (util.c) */
int write_file(const char *path, const char *text);
int read_file(const char *path, char *text, size_t size);
double now_ms(void);
unsigned long long start_time(pid_t pid);             /* clock ticks since boot: with the pid, the name of a process */
const char *signal_name(int signal);
int namespace_flags(const char *list, uint64_t *flags);
int parse_number(const char *text, double *value);
int set_nonblocking(int fd);
int fail(struct run *, const char *object, int error); /* sets errno and the object, gives -1 */
int listen_on(const char *path);
int open_in(int dir, const char *path, uint64_t flags, uint64_t resolve);

/* the guest's users, and PATH (users.c) */
struct account { char name[64], home[256], shell[256]; unsigned uid, gid; };
bool find_account(const char *wanted, struct account *); /* by name or number */
size_t find_groups(const char *member, gid_t *, size_t room);
int execute_along(char **argv, char **envp);          /* never returns but with an errno */

/* rtnetlink (net.c) */
int net_open(void);
int net_up(int socket, const char *name);
int net_mac(int socket, const char *name, const char *mac);
int net_address(int socket, const char *name, const char *address, int prefix);
int net_gateway(int socket, const char *gateway);
int net_veth(int socket, const char *name, const char *peer, int peer_namespace);
#endif
