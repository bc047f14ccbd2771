/*
 * A kernel for tests of `carrel vmm linux`, in place of Linux, which needs a processor that this host may not have:
 * it is booted as Linux is, finds its devices where the command line says that they are, and drives their rings
 * itself. It sleeps until it is interrupted. Numbers are those of "Virtual I/O Device (VIRTIO) Version 1.2".
 *
 * On its console (hvc0 or ttyS0, as the command line has it) it says what it found. Lines typed at hvc0 come back in
 * capitals; `disk` reads the first sector, `quit` ends the machine. Its card answers for 192.168.77.2.
 */
#include <stdint.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

enum { MAGIC = 0, VERSION = 4, DEVICE_ID = 8, DRIVER_FEATURES = 0x20, DRIVER_FEATURES_SEL = 0x24 };
enum { QUEUE_SEL = 0x30, QUEUE_NUM = 0x38, QUEUE_READY = 0x44, QUEUE_NOTIFY = 0x50 };
enum { INTERRUPT_STATUS = 0x60, INTERRUPT_ACK = 0x64, STATUS = 0x70 };
enum { QUEUE_DESC = 0x80, QUEUE_DRIVER = 0x90, QUEUE_DEVICE = 0xa0 };
enum { NET = 1, DISK = 2, CONSOLE = 3, KINDS = 4 };
enum { SIZE = 16, BUFFER = 2048, NET_HEADER = 12 };
enum { NEXT = 1, WRITE = 2 };

struct descriptor {
  uint64_t at;
  uint32_t bytes;
  uint16_t flags, next;
};

struct queue {
  struct descriptor descriptors[SIZE] __attribute__((aligned(16)));
  struct {
    uint16_t flags, index, ring[SIZE], used_event;
  } avail __attribute__((aligned(2)));
  volatile struct {
    uint16_t flags, index;
    struct {
      uint32_t head, bytes;
    } ring[SIZE];
    uint16_t avail_event;
  } used __attribute__((aligned(4)));
  uint16_t seen;
  uint8_t buffers[SIZE][BUFFER];
};

/* By device id; one of each kind. Queue 0 receives (of a disk: takes requests), queue 1 transmits. */
static struct device {
  uintptr_t base;
  struct queue queues[2];
} devices[KINDS];

/* What each cost: accesses to registers without those that only notify, notifications, interrupts. */
static uint32_t accesses, notifications;
static volatile uint32_t interrupts;
static int on_serial;

static void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

/* One instruction each, as Linux has it: gcc 12 repeats the last of several volatile writes in a loop. */
static uint32_t load(uintptr_t at) {
  uint32_t value;
  __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(at) : "memory");
  return value;
}

static void store(uintptr_t at, uint32_t value) { __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(at) : "memory"); }

static uint32_t get(struct device *device, uint32_t offset) {
  accesses++;
  return load(device->base + offset);
}

static void set(struct device *device, uint32_t offset, uint32_t value) {
  accesses++;
  store(device->base + offset, value);
}

static void barrier(void) { __asm__ volatile("mfence" : : : "memory"); }

static void notify(struct device *device, uint32_t queue) {
  barrier();
  notifications++;
  store(device->base + QUEUE_NOTIFY, queue);
}

static void offer(struct queue *queue, uint16_t head) {
  queue->avail.ring[queue->avail.index % SIZE] = head;
  barrier();
  queue->avail.index++;
}

/* Section 3.1.1; of all features only VIRTIO_F_VERSION_1. The reset is 0 in STATUS. */
static void start(struct device *device, uint32_t queues) {
  set(device, STATUS, 0);
  set(device, STATUS, 1);
  set(device, STATUS, 3);
  set(device, DRIVER_FEATURES_SEL, 0);
  set(device, DRIVER_FEATURES, 0);
  set(device, DRIVER_FEATURES_SEL, 1);
  set(device, DRIVER_FEATURES, 1);
  set(device, STATUS, 11);
  for (uint32_t index = 0; index < queues; index++) {
    struct queue *queue = &device->queues[index];
    set(device, QUEUE_SEL, index);
    set(device, QUEUE_NUM, SIZE);
    set(device, QUEUE_DESC, (uint32_t)(uintptr_t)queue->descriptors);
    set(device, QUEUE_DESC + 4, 0);
    set(device, QUEUE_DRIVER, (uint32_t)(uintptr_t)&queue->avail);
    set(device, QUEUE_DRIVER + 4, 0);
    set(device, QUEUE_DEVICE, (uint32_t)(uintptr_t)&queue->used);
    set(device, QUEUE_DEVICE + 4, 0);
    set(device, QUEUE_READY, 1);
  }
  set(device, STATUS, 15);
}

/* All buffers of queue 0, for what comes in. */
static void give_buffers(struct device *device) {
  struct queue *queue = &device->queues[0];
  for (uint16_t index = 0; index < SIZE; index++) {
    queue->descriptors[index] = (struct descriptor){(uintptr_t)queue->buffers[index], BUFFER, WRITE, 0};
    offer(queue, index);
  }
  notify(device, 0);
}

/* Sends on queue 1, and waits until it is taken: the used ring is memory, and looking at it costs no exit. */
static void send(struct device *device, const void *bytes, uint32_t length) {
  struct queue *queue = &device->queues[1];
  queue->avail.flags = 1; /* VIRTQ_AVAIL_F_NO_INTERRUPT */
  queue->descriptors[0] = (struct descriptor){(uintptr_t)bytes, length, 0, 0};
  uint16_t before = queue->used.index;
  offer(queue, 0);
  notify(device, 1);
  while (queue->used.index == before) __asm__ volatile("pause");
}

static void say(const char *text) {
  uint32_t length = 0;
  while (text[length] != 0) length++;
  if (!on_serial) send(&devices[CONSOLE], text, length);
  else
    while (*text != 0) out8(0x3f8, (uint8_t)*text++);
}

static void say_number(const char *what, uint32_t number) {
  char text[12], *at = text + sizeof text - 1;
  *at = 0;
  do *--at = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  say(what);
  say(at);
}

static void copy(void *to, const void *from, uint32_t length) {
  for (uint32_t at = 0; at < length; at++) ((volatile uint8_t *)to)[at] = ((const uint8_t *)from)[at];
}

static int same(const char *text, const void *bytes, uint32_t length) {
  for (uint32_t at = 0; at < length; at++)
    if (text[at] != ((const char *)bytes)[at]) return 0;
  return text[length] == 0;
}

/* One request to read sector 0 (5.2.6): header, data, outcome. Its interrupt wakes nobody that waits for it. */
static void read_disk(void) {
  static uint64_t header[2];
  static uint8_t sector[513];
  static volatile uint8_t outcome = 9;
  struct queue *queue = &devices[DISK].queues[0];
  if (devices[DISK].base == 0) return say("no disk\n");
  queue->descriptors[0] = (struct descriptor){(uintptr_t)header, 16, NEXT, 1};
  queue->descriptors[1] = (struct descriptor){(uintptr_t)sector, 512, NEXT | WRITE, 2};
  queue->descriptors[2] = (struct descriptor){(uintptr_t)&outcome, 1, WRITE, 0};
  uint16_t before = queue->used.index;
  offer(queue, 0);
  notify(&devices[DISK], 0);
  while (queue->used.index == before) __asm__ volatile("pause");
  say(outcome == 0 ? "sector 0: " : "no sector: ");
  say((const char *)sector);
}

static const uint8_t our_address[4] = {192, 168, 77, 2};

/* Configuration of a card: its hardware address first (5.1.4). */
static void our_mac(uint8_t *to) {
  for (uint32_t at = 0; at < 6; at++) {
    accesses++;
    to[at] = *(volatile uint8_t *)(devices[NET].base + 0x100 + at);
  }
}

/* Answers a request for our hardware address (RFC 826), or an echo request (RFC 792), in place. */
static int answer(uint8_t *frame, uint32_t length) {
  uint8_t mac[6];
  uint8_t *body = frame + 14;
  if (length >= 42 && frame[12] == 8 && frame[13] == 6 && body[7] == 1 && same((const char[]){(char)192, (char)168, 77, 2, 0}, body + 24, 4)) {
    our_mac(mac);
    body[7] = 2;
    copy(body + 18, body + 8, 10);
    copy(body + 8, mac, 6);
    copy(body + 14, our_address, 4);
  } else if (length >= 42 && frame[12] == 8 && frame[13] == 0 && body[9] == 1 && body[20] == 8) {
    our_mac(mac);
    copy(body + 16, body + 12, 4);
    copy(body + 12, our_address, 4);
    /* of the sum only what changes: type 8 became 0 (RFC 1624) */
    uint32_t sum = ((uint32_t)body[22] << 8 | body[23]) + 0x800;
    sum = (sum & 0xffff) + (sum >> 16);
    body[20] = 0;
    body[22] = (uint8_t)(sum >> 8);
    body[23] = (uint8_t)sum;
  } else return 0;
  copy(frame, frame + 6, 6);
  copy(frame + 6, mac, 6);
  return 1;
}

static void quit(void) {
  say_number("accesses ", accesses);
  say_number(" notifications ", notifications);
  say_number(" interrupts ", interrupts);
  say("\n");
  out8(0xf4, 0);
  for (;;) __asm__ volatile("cli; hlt");
}

static void obey(uint8_t *typed, uint32_t length) {
  static char line[BUFFER];
  static uint32_t filled;
  for (uint32_t at = 0; at < length; at++) {
    uint8_t byte = typed[at];
    if (byte != '\n') {
      if (filled < sizeof line - 2) line[filled++] = (char)byte;
      continue;
    }
    if (same("quit", line, filled)) quit();
    else if (same("disk", line, filled)) read_disk();
    else {
      for (uint32_t each = 0; each < filled; each++)
        if (line[each] >= 'a' && line[each] <= 'z') line[each] = (char)(line[each] - 'a' + 'A');
      line[filled] = '\n';
      line[filled + 1] = 0;
      say(line);
    }
    filled = 0;
  }
}

/* What came in on queue 0; the buffer is free again afterwards. */
static void receive(uint32_t kind) {
  struct device *device = &devices[kind];
  struct queue *queue = &device->queues[0];
  int any = 0;
  for (; queue->seen != queue->used.index; queue->seen++, any = 1) {
    uint16_t head = (uint16_t)queue->used.ring[queue->seen % SIZE].head;
    uint32_t length = queue->used.ring[queue->seen % SIZE].bytes;
    uint8_t *bytes = queue->buffers[head];
    if (kind == CONSOLE) obey(bytes, length);
    else if (length > NET_HEADER && answer(bytes + NET_HEADER, length - NET_HEADER)) {
      for (uint32_t at = 0; at < NET_HEADER; at++) bytes[at] = 0;
      send(device, bytes, length);
    }
    offer(queue, head);
  }
  if (any) notify(device, 0);
}

struct frame;
__attribute__((interrupt)) static void on_interrupt(struct frame *frame) {
  (void)frame;
  interrupts++;
  out8(0xa0, 0x20); /* end of interrupt, both controllers */
  out8(0x20, 0x20);
}

/* Interrupts of the two 8259 at vectors 0x20 to 0x2f; `mask` has a 0 for each that may come. */
static void take_interrupts(uint16_t mask) {
  static struct {
    uint16_t low, selector, flags, middle;
    uint32_t high, zero;
  } table[0x30] __attribute__((aligned(16)));
  uint64_t at = (uintptr_t)on_interrupt;
  for (uint32_t vector = 0x20; vector < LENGTH(table); vector++) {
    table[vector].low = (uint16_t)at;
    table[vector].selector = 0x10; /* __BOOT_CS */
    table[vector].flags = 0x8e00;
    table[vector].middle = (uint16_t)(at >> 16);
    table[vector].high = (uint32_t)(at >> 32);
  }
  struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof table - 1, (uintptr_t)table};
  __asm__ volatile("lidt %0" : : "m"(pointer));
  static const uint8_t words[2][4] = {{0x11, 0x20, 4, 1}, {0x11, 0x28, 2, 1}};
  for (uint32_t chip = 0; chip < 2; chip++) {
    uint16_t port = chip == 0 ? 0x20 : 0xa0;
    for (uint32_t word = 0; word < 4; word++) out8((uint16_t)(port + (word > 0)), words[chip][word]);
    out8((uint16_t)(port + 1), (uint8_t)(mask >> (8 * chip)));
  }
}

static const char *find(const char *text, const char *word) {
  for (; *text != 0; text++) {
    uint32_t at = 0;
    while (word[at] != 0 && text[at] == word[at]) at++;
    if (word[at] == 0) return text + at;
  }
  return 0;
}

static uint64_t number(const char **text) {
  uint64_t value = 0, base = 10;
  if ((*text)[0] == '0' && (*text)[1] == 'x') {
    base = 16;
    *text += 2;
  }
  for (;; (*text)++) {
    char digit = **text;
    if (digit >= '0' && digit <= '9') value = value * base + (uint64_t)(digit - '0');
    else if (base == 16 && digit >= 'a' && digit <= 'f') value = value * base + (uint64_t)(digit - 'a' + 10);
    else return value;
  }
}

/* `boot_params` of the boot protocol: cmd_line_ptr is at 0x228. */
void kernel(const uint8_t *boot_params) {
  const char *line = (const char *)(uintptr_t) * (const uint32_t *)(boot_params + 0x228);
  const char *at = line;
  uint16_t mask = 0xffff & ~(1u << 2); /* 2: the second controller */
  on_serial = find(line, "console=hvc0") == 0;
  while ((at = find(at, "virtio_mmio.device=")) != 0) {
    (void)number(&at); /* how long its range is */
    at++;
    struct device found = {.base = number(&at)};
    at++;
    uint64_t irq = number(&at);
    uint32_t kind = get(&found, DEVICE_ID);
    if (get(&found, MAGIC) != 0x74726976 || get(&found, VERSION) != 2 || kind >= KINDS) continue;
    devices[kind].base = found.base;
    mask &= (uint16_t) ~(1u << irq);
  }
  take_interrupts(mask);
  for (uint32_t kind = NET; kind < KINDS; kind++) {
    if (devices[kind].base == 0) continue;
    start(&devices[kind], kind == DISK ? 1 : 2);
    if (kind != DISK) give_buffers(&devices[kind]);
  }
  say("devices:");
  if (devices[NET].base != 0) say(" net");
  if (devices[DISK].base != 0) say(" disk");
  if (devices[CONSOLE].base != 0) say(" console");
  say("\n");
  if (on_serial) {
    read_disk();
    quit();
  }
  for (;;) {
    /* whatever comes after the look is pending, and wakes the processor at once: sti takes effect after hlt began */
    __asm__ volatile("cli");
    for (uint32_t kind = NET; kind < KINDS; kind++) {
      struct device *device = &devices[kind];
      uint32_t why = device->base == 0 ? 0 : get(device, INTERRUPT_STATUS);
      if (why == 0) continue;
      set(device, INTERRUPT_ACK, why);
      if (kind != DISK) receive(kind);
    }
    __asm__ volatile("sti; hlt");
  }
}

__asm__(".globl _start\n_start: lea stack_end(%rip), %rsp\n mov %rsi, %rdi\n call kernel\n"
        ".bss\n.balign 16\n.skip 16384\nstack_end:\n.text\n");
