/* The operations, by where they run; the table in plan.c gives them names. */
#ifndef OPS_H
#define OPS_H
#include "isolate.h"
/* op_settings.c: in the session, before there is a child */
op_fn limit_before, counter_before, write_before, join_before, cgroup_before, namespaces_before, target_before,
  map_before, setgroups_before, stdio_before, pty_before, oom_before, oom_after, place_after, sync_after,
  hold_net_after, init_before, prepare_before;
/* op_mount.c: file systems, in the child (and the halves that need the session's privileges) */
op_fn root_before, root_child, late_root_after, bind_before, bind_child, mount_child, dev_child, remount_child, pivot_child,
  mkdir_child, symlink_child, touch_child, private_child, overlay_root_child;
/* op_session_mount.c: file systems in the session's own mount namespace */
op_fn session_private_before, session_mkdir_before, session_mount_before, idmap_after, session_mount_after;
/* op_child.c: identity, privileges and the program, in the child */
op_fn identity_child, hostname_child, rlimit_child, init_child, leader_child, caps_child, no_new_privs_child,
  seccomp_child, user_child, env_child, cwd_child, arg_child, self_child, work_child, pty_child, raw_child, join_child,
  unshare_child, link_up_child, mac_child, address_child, gateway_child, veth_child;
/* keep.c */
op_fn keep_before, record_before, exec_server_before;
#endif
