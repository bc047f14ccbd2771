/** Calls that KVM itself answers to vmcall and vmmcall. Numbers: include/uapi/linux/kvm_para.h; meanings: hypercalls.rst. */

export const hypercalls = {
  VAPIC_POLL_IRQ: 1,
  KICK_CPU: 5,
  CLOCK_PAIRING: 9,
  SEND_IPI: 10,
  SCHED_YIELD: 11,
  MAP_GPA_RANGE: 12,
} as const;

/** What a call answers, negated, when it fails. */
export const hypercallErrors = { EPERM: 1, EFAULT: 14, EINVAL: 22, EOPNOTSUPP: 95, ENOSYS: 1000 } as const;
