//! Counting what a thread does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Sub;
use std::os::fd::FromRawFd;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// What a thread has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) system_calls: u64,
    pub(crate) allocations: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            // Less the one that reads the counter.
            system_calls: self.system_calls - before.system_calls - 1,
            allocations: self.allocations - before.allocations,
        }
    }
}

const TRACEFS: &str = "/sys/kernel/tracing";
/// The tracepoint's number.
const SYSTEM_CALLS: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";

/// Reads it where nobody has mounted tracefs.
fn with_tracefs() -> io::Result<String> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let (nothing, recursively) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(nothing, "/", nothing, recursively, nothing)?;
    mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        nothing,
    )?;
    fs::read_to_string(SYSTEM_CALLS)
}

/// Counts what the calling thread does.
pub(crate) struct Meter(File);

impl Meter {
    pub(crate) fn new() -> io::Result<Self> {
        let id = match fs::read_to_string(SYSTEM_CALLS) {
            Ok(id) => id,
            // On a thread of its own, which takes the mount with it.
            Err(_) => thread::spawn(with_tracefs)
                .join()
                .map_err(|_panicked| io::Error::other("mounting tracefs"))??,
        };
        let id: u64 = id.trim().parse().map_err(io::Error::other)?;
        // struct perf_event_attr, version 0: its type and its own size share
        // the first word, the tracepoint's number is the second.
        const TRACEPOINT: u64 = 2;
        const SIZE: u64 = 64;
        const CLOEXEC: libc::c_ulong = 1 << 3;
        let mut attributes = [0_u64; 8];
        attributes[0] = SIZE << 32 | TRACEPOINT;
        attributes[1] = id;
        #[expect(unsafe_code, reason = "no library wraps this")]
        // SAFETY: the kernel reads SIZE bytes, and they are there; it gives a
        // new descriptor or an error.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attributes.as_ptr(),
                0,
                -1,
                -1,
                CLOEXEC,
            )
        };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        #[expect(unsafe_code, reason = "a descriptor arrives as a number")]
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    pub(crate) fn read(&self) -> io::Result<Counts> {
        let allocations = ALLOCATIONS.get();
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(Counts {
            system_calls: u64::from_ne_bytes(count),
            allocations,
        })
    }
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "the trait is unsafe")]
// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: by this function's own contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by this function's own contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}
