/*
 * agent: runs in Linux guests as root and does what the host asks over a virtio-serial port.
 *
 *   main.c      the command line, the port, the poll loop
 *   link.c      frames in and out, and finding the beat again after half a frame
 *   channels.c  one channel per request; what each request does
 *   program.c   a child process: start, input, output, end
 *   run.c       programs that somebody waits for
 *   kept.c      programs that go on by themselves, and who looks at them
 *   files.c     read and write a file
 *   identify.c  name, keys, entropy, clock, address, password
 *   disk.c      the root file system grows with its disk
 *   machine.c   power, usage
 *
 * The wire, little endian: a head of 16 bytes (magic, length, type, flags, channel), at most 64 KiB, a mark of 4
 * bytes. The mark tells a whole frame from half a frame that a later connection went on to fill: whoever does not
 * find it looks for the next hello. src/machines/drivers/qemu/agent/wire.ts is the other side.
 */
#ifndef AGENT_H
#define AGENT_H
#include "../isolate/isolate.h"
#include <poll.h>

enum {
  PROTOCOL = 1,
  HEAD = 16, MARK = 4,
  MAX_PAYLOAD = 64 << 10,
  MAX_REQUEST = 4 << 20,     /* a request in several frames: more than execve takes */
  FLAG_MORE = 1,             /* the request goes on in the next frame */
  NONCE = 16,
  OUT_HIGH = 256 << 10,      /* queued for the host before programs wait */
  OUT_FULL = 1 << 20,        /* ... before requests wait, too */
  WINDOW = 128 << 10,        /* input a channel takes before it has passed any on */
  MAX_CHANNELS = 64,
  MAX_KEPT = 64,
  PIECE = 32 << 10,          /* what a virtio port takes at once */
};

enum type {
  /* from the host */
  T_HELLO = 1, T_PING, T_RUN, T_INPUT, T_INPUT_END, T_CREDIT, T_KILL, T_RESIZE, T_KEEP, T_ATTACH, T_CLOSE, T_DROP,
  T_READ, T_WRITE, T_IDENTIFY, T_GROW, T_POWER, T_SYNC, T_USAGE,
  /* to the host */
  T_WELCOME = 101, T_DONE, T_FAILED, T_STARTED, T_STDOUT, T_STDERR, T_TAKEN, T_FILE, T_ATTACHED, T_RECORD, T_ENDED,
};

/* ---- link.c ---- */
struct frame { uint16_t type, flags; uint32_t channel, length; unsigned char *payload; };
struct link { int fd; bool greeted, lost; unsigned char nonce[NONCE]; struct buf in, out; };
extern struct link host;
void put32(unsigned char *, uint32_t);
void put64(unsigned char *, uint64_t);
void link_send(enum type, uint32_t channel, const void *, size_t);
void link_send2(enum type, uint32_t channel, const void *, size_t, const void *, size_t); /* two pieces, one frame */
int link_fill(void);                                 /* reads what is there; -1: the other side is gone */
int link_flush(void);
bool link_frame(struct frame *);                     /* the next whole frame; link_consume it */
void link_consume(const struct frame *);
void link_reset(void);                               /* forgets everything that is half said */
static inline bool link_room(void) { return buf_size(&host.out) < OUT_HIGH; }

/* What came from the host, read with a check of every length. */
struct in { const unsigned char *at, *end; bool bad; };
uint8_t in_u8(struct in *);
uint16_t in_u16(struct in *);
uint32_t in_u32(struct in *);
uint64_t in_u64(struct in *);
const char *in_text(struct in *);                    /* never NULL; no NUL inside */
const unsigned char *in_bytes(struct in *, size_t);  /* NULL when there are fewer */
static inline size_t in_left(const struct in *in) { return (size_t)(in->end - in->at); }

/* ---- program.c ---- */
enum reason { R_NONE, R_WALL, R_OUTPUT, R_CANCELLED, R_MEMORY };
struct trouble { int32_t error; char stage[28]; };
struct program {
  pid_t pid;                 /* 0: none */
  int status;                /* closed by execve; what comes before is why there was no run */
  int in, out[2];            /* our ends; of a terminal in and out[0] */
  bool tty, starting, ended, killed;
  enum reason reason;
  int exit_status;
  struct trouble trouble;
  struct buf input;
  bool input_ended;
  double began, wall_ms, limit_ms;
  uint64_t output, output_limit, ooms;
  long left[2];              /* after the end: bytes that were in the pipe then */
};
struct request {
  uint32_t limit_ms;
  uint64_t output_limit;
  uint16_t rows, columns;    /* 0: no terminal */
  bool input;
  const char *user, *cwd;
  char **argv, **env;
};
int request_read(struct in *, struct request *);     /* 0 or an errno; request_free it always */
void request_free(struct request *);
int program_start(struct program *, const struct request *, bool merged); /* merged: one pipe for both outputs */
int program_job(struct program *, int (*work)(struct in *), struct in *, double limit_ms); /* a function in a child */
void program_kill(struct program *, enum reason);
bool program_reap(struct program *);                 /* true: it has just ended */
bool program_done(const struct program *);           /* ended, and its output is read */
void program_give(struct program *);                 /* passes its input on */
ssize_t program_take(struct program *, int which, void *, size_t); /* output; 0: none now */
void program_resize(struct program *, uint16_t rows, uint16_t columns);
void program_close(struct program *);
bool program_news(struct program *);                 /* true: it has just come under way, or failed to */
bool program_late(struct program *, double now, double *next);
_Noreturn void job_fail(const char *stage, int error); /* in a job's child */
size_t ended_frame(const struct program *, unsigned char *); /* payload of T_ENDED */
enum { ENDED_BYTES = 24 };

/* ---- channels.c ---- */
enum kind { C_FREE, C_RUN, C_VIEW, C_READ, C_WRITE, C_JOB };
struct kept;
struct channel {
  enum kind kind;
  uint32_t id;               /* 0: nobody waits for it any more */
  uint64_t credit;           /* bytes that the host still takes */
  size_t outstanding;        /* bytes it has sent and not yet been told of */
  struct program program;
  /* a file */
  int file, directory;
  uint64_t size, done;
  uint32_t mode;
  char *path, temporary[32];
  /* a view */
  struct kept *kept;
  uint64_t offset;
  /* a job */
  bool settle;               /* what it wrote shall reach the disk */
};
extern struct channel channels[MAX_CHANNELS];
void channels_reset(void);                           /* the host begins anew: only kept programs stay */
void channel_obey(const struct frame *);
void channel_failed(uint32_t id, const char *stage, int error);
void channel_free(struct channel *);
struct channel *channel_new(enum kind, uint32_t id); /* NULL after the refusal */
void channel_taken(struct channel *, size_t waiting); /* tells the host what is passed on, all but so much */

/* ---- run.c, kept.c, files.c ---- */
void run_request(uint32_t id, struct in *);
bool run_step(struct channel *);                     /* true: something moved */
void kept_start(uint32_t id, struct in *);
void kept_attach(uint32_t id, struct in *);
void kept_drop(uint32_t id, struct in *);
bool kept_step(void);
bool view_step(struct channel *);
struct program *kept_program(struct kept *);
size_t kept_poll(struct pollfd *, size_t room);
void kept_forget_waiters(void);                      /* the host begins anew */
void kept_reap(void);

void read_request(uint32_t id, struct in *);
bool read_step(struct channel *);
void write_request(uint32_t id, struct in *);
void write_piece(struct channel *, const void *, size_t);
void write_finish(struct channel *);
void write_abandon(struct channel *);

/* ---- jobs: run in a child, which ends with 0 or job_fail ---- */
int identify_job(struct in *);
int grow_job(struct in *);
int sync_job(struct in *);
int sync_later_job(struct in *);

/* ---- machine.c ---- */
void power_request(uint32_t id, struct in *);
void usage_request(uint32_t id);
uint64_t oom_kills(void);
uint64_t memory_bytes(void);

/* ---- main.c ---- */
extern bool in_guest;                                /* a virtio port of this machine's own: then it may be changed */
extern const char *root_prefix;                      /* tests: identities are written below it */
#endif
