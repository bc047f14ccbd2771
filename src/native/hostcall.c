/*
 * hostcall: the system call door of the TypeScript side (Node-API 8).
 *
 *   syscall(nr, ...up to 6)  one system call on the calling thread; returns the result, or -errno
 *   addressOf(view)          address of a typed array or DataView, as a bigint
 *   timeStamp()              the processor's time-stamp counter (RDTSC), as a bigint
 *   kickSignal               a signal that only interrupts: empty handler, no SA_RESTART
 *
 * An argument is a number, a bigint, null/undefined (0), or a view, which becomes its address. The view
 * lives as long as the call. A bare (Shared)ArrayBuffer is refused: pass a view on it. Nothing here checks
 * what a call does to memory: src/host/syscalls.ts is the only file that may load this one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <node_api.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

enum { MAX_ARGUMENTS = 7 }; /* the number, and six registers */

/* One JavaScript value as a machine word; false if it is of no kind that can be one. */
static bool to_word(napi_env env, napi_value value, uintptr_t *word) {
  napi_valuetype type;
  if (napi_typeof(env, value, &type) != napi_ok) return false;
  switch (type) {
  case napi_undefined:
  case napi_null:
    *word = 0;
    return true;
  case napi_number: {
    double number;
    if (napi_get_value_double(env, value, &number) != napi_ok) return false;
    /* NaN, infinity, fractions and what a double cannot hold exactly would become another number silently */
    if (!(number >= -9007199254740991.0 && number <= 9007199254740991.0) || number != (double)(int64_t)number)
      return false;
    *word = (uintptr_t)(int64_t)number;
    return true;
  }
  case napi_bigint: {
    uint64_t number;
    bool lossless; /* two's complement of a negative one is wanted, too: -1n is all ones */
    if (napi_get_value_bigint_uint64(env, value, &number, &lossless) != napi_ok) return false;
    *word = (uintptr_t)number;
    return true;
  }
  default: {
    bool is = false;
    size_t length;
    void *data = NULL;
    if (napi_is_typedarray(env, value, &is) == napi_ok && is) {
      if (napi_get_typedarray_info(env, value, NULL, &length, &data, NULL, NULL) != napi_ok) return false;
    } else if (napi_is_dataview(env, value, &is) == napi_ok && is) {
      if (napi_get_dataview_info(env, value, &length, &data, NULL, NULL) != napi_ok) return false;
    } else {
      return false;
    }
    *word = (uintptr_t)data;
    return true;
  }
  }
}

static napi_value call(napi_env env, napi_callback_info info) {
  size_t count = MAX_ARGUMENTS;
  napi_value arguments[MAX_ARGUMENTS], result;
  uintptr_t words[MAX_ARGUMENTS] = {0};
  if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) != napi_ok) return NULL;
  if (count < 1 || count > MAX_ARGUMENTS) {
    napi_throw_type_error(env, NULL, "syscall: wants a number and at most six arguments");
    return NULL;
  }
  for (size_t i = 0; i < count; i++)
    if (!to_word(env, arguments[i], &words[i])) {
      napi_throw_type_error(env, NULL, "syscall: an argument is a whole number, a bigint, null or a view");
      return NULL;
    }
  long value = syscall((long)words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
  return napi_create_int64(env, value == -1 ? -(int64_t)errno : value, &result) == napi_ok ? result : NULL;
}

static napi_value address_of(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument, result;
  napi_valuetype type;
  uintptr_t word;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok) return NULL;
  if (napi_typeof(env, argument, &type) != napi_ok || type != napi_object || !to_word(env, argument, &word)) {
    napi_throw_type_error(env, NULL, "addressOf: wants a typed array or DataView");
    return NULL;
  }
  return napi_create_bigint_uint64(env, word, &result) == napi_ok ? result : NULL;
}

static napi_value time_stamp(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value result;
  return napi_create_bigint_uint64(env, __rdtsc(), &result) == napi_ok ? result : NULL;
}

static void interrupt_only(int signal) { (void)signal; }

NAPI_MODULE_INIT() {
  /* No SA_RESTART: the signal makes KVM_RUN, poll and read return EINTR. The handler lives in C because
   * removing a JavaScript listener would restore the default action, which ends the process. */
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = interrupt_only;
  int kick = SIGRTMAX - 1;
  if (sigaction(kick, &action, NULL) != 0) {
    napi_throw_error(env, NULL, "hostcall: cannot install the kick signal's handler");
    return NULL;
  }
  napi_value number;
  const napi_property_descriptor properties[] = {
    {.utf8name = "syscall", .method = call, .attributes = napi_enumerable},
    {.utf8name = "addressOf", .method = address_of, .attributes = napi_enumerable},
    {.utf8name = "timeStamp", .method = time_stamp, .attributes = napi_enumerable},
  };
  if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok ||
      napi_create_int32(env, kick, &number) != napi_ok ||
      napi_set_named_property(env, exports, "kickSignal", number) != napi_ok)
    napi_throw_error(env, NULL, "hostcall: cannot export");
  return exports;
}
