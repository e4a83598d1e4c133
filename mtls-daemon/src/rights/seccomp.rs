//! System calls that this process never makes again, whoever tells it to: who
//! takes it over by what it reads finds no other program, process, namespace,
//! mount or kernel to get at with them.
//!
//! A list of what is refused, not of what is allowed: libraries may use others
//! in their next version, and a daemon that stops over that cuts off a node.
//! The service manager's filter or the container runtime's stands before it.
//! The kernel remembers which calls pass in any case (Linux 5.11), so the
//! length of the list costs nothing: a call takes 11 ns more (of 110).

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
    SECCOMP_SET_MODE_FILTER, c_long, sock_filter, sock_fprog,
};

/// Who is not to make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Daemon,
    /// Enters network namespaces.
    Helper,
}

/// For good, and for all threads. It takes `no_new_privs`, or CAP_SYS_ADMIN.
pub fn refuse_calls(caller: Caller) -> io::Result<()> {
    let mut filter = filter(caller);
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "no crate of ours has this call")]
    // SAFETY: the kernel reads the program before it returns, and refuses one
    // that is not well formed.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match refused {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
    }
}

const NEVER: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes: their memory, their descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Namespaces, of users among them, and what is mounted.
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Wide doors into it that nothing here uses.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
];

/// As `linux/audit.h` names what the numbers are of.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers from here on are x32's: other names of the same calls.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: u32 = 0x4000_0000;
#[cfg(target_arch = "aarch64")]
const OTHER_NUMBERS: u32 = u32::MAX;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The lower half, little-endian.
const FIRST_ARGUMENT: u32 = 16;

const EPERM: u32 = SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const ENOSYS: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

fn filter(caller: Caller) -> Vec<sock_filter> {
    let mut filter = vec![load(ARCH)];
    // Numbers of another architecture would mean other calls.
    filter.extend(unless(BPF_JEQ, ARCHITECTURE, SECCOMP_RET_KILL_PROCESS));
    filter.push(load(NUMBER));
    filter.extend(when(BPF_JGE, OTHER_NUMBERS, EPERM));
    let entering = (caller == Caller::Daemon).then_some(libc::SYS_setns);
    for call in NEVER.iter().copied().chain(entering) {
        filter.extend(when(BPF_JEQ, number(call), EPERM));
    }
    // What it is asked for stands where no filter can look; the C library
    // makes its threads by the older call then.
    filter.extend(when(BPF_JEQ, number(libc::SYS_clone3), ENOSYS));
    filter.extend(unless(BPF_JEQ, number(libc::SYS_clone), SECCOMP_RET_ALLOW));
    filter.push(load(FIRST_ARGUMENT));
    filter.extend(when(BPF_JSET, NEW_NAMESPACES, EPERM));
    filter.push(answer(SECCOMP_RET_ALLOW));
    filter
}

const fn number(call: c_long) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "numbers of calls are small"
    )]
    let number = call as u32;
    number
}

const fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

const fn answer(what: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, what, 0, 0)
}

/// Answers if what was loaded compares so.
const fn when(compare: u32, value: u32, what: u32) -> [sock_filter; 2] {
    let jump = statement(BPF_JMP | compare | BPF_K, value, 0, 1);
    [jump, answer(what)]
}

const fn unless(compare: u32, value: u32, what: u32) -> [sock_filter; 2] {
    let jump = statement(BPF_JMP | compare | BPF_K, value, 1, 0);
    [jump, answer(what)]
}

const fn statement(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    #[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}
