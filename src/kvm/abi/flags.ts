/** Single bits and fixed values of the ABI; include/uapi/linux/kvm.h unless said otherwise. */

/** The version every kernel since 2.6.22 answers; any other is another API (api.rst, 4.1). */
export const API_VERSION = 12;

/** Bit of kvm_valid_regs: the general registers are copied into kvm_run at each exit (asm/kvm.h). */
export const SYNC_X86_REGS = 1;

/** Bits of kvm_guest_debug.control. */
export const GUESTDBG_ENABLE = 1;
export const GUESTDBG_SINGLESTEP = 2;
/** The processor's own breakpoints, DR0 to DR3 (asm/kvm.h). */
export const GUESTDBG_USE_HW_BP = 0x2_0000;

/** Flag of a memory slot: pages that the guest writes are noted. */
export const MEM_LOG_DIRTY_PAGES = 1;

/** Argument of KVM_CAP_DISABLE_QUIRKS2: leave vmcall and vmmcall as the guest wrote them (api.rst, 7.33; asm/kvm.h). */
export const X86_QUIRK_FIX_HYPERCALL_INSN = 1 << 5;

/** Bit of kvm_pit_config.flags: port 0x61 is answered by the kernel as well. */
export const PIT_SPEAKER_DUMMY = 1;

/** Bit of kvm_ioeventfd.flags: only writes of one value count. */
export const IOEVENTFD_DATAMATCH = 1;
