//! What this process holds of the machine's memory, and giving back what it
//! does not use any more.
//!
//! glibc keeps what was freed between two pieces that are still in use. After
//! the kernel's types were read and its programs loaded that is 20 MB, and
//! after a burst of connections a few more. Of the program and its libraries
//! two thirds of what is mapped by then is for the start, or lies beside it.

use std::ffi::c_void;
use std::fs;
use std::num::NonZero;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::unistd::{SysconfVar, sysconf};

/// Less is not worth a walk through every heap.
const SLACK: u64 = 2 << 20;

/// The process's memory, as far as it was looked after.
#[derive(Debug)]
pub struct Memory {
    /// The fewest bytes that were resident when some had been given back.
    least: u64,
    /// What the start needed is given back a second time, when its last work
    /// is done.
    has_started: bool,
}

impl Memory {
    /// Gives back after the start.
    pub fn after_start() -> Self {
        give_back();
        Self {
            least: resident().unwrap_or(u64::MAX),
            has_started: false,
        }
    }

    /// Gives back if there may be something. What was in use at the last look
    /// may be free by now, without a change of the figure.
    pub fn look(&mut self) {
        if !self.has_started {
            give_back_files();
            self.has_started = true;
        } else if resident().is_none_or(|now| now <= self.least.saturating_add(SLACK)) {
            return;
        }
        trim();
        self.least = resident().map_or(self.least, |now| now.min(self.least));
    }
}

/// For a process with nothing to do: what it needs comes back by itself.
pub fn give_back() {
    give_back_files();
    trim();
}

/// Lists of connections are moved as they grow, and what they leave behind is
/// too small for the next one. A large piece has pages of its own, which the
/// kernel moves without a copy.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: i32 = 1 << 20;
        #[expect(unsafe_code, reason = "a call into the C library")]
        // SAFETY: it takes no pointer, and locks what it works on.
        let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        debug_assert_eq!(taken, 1, "glibc knows no such setting");
    }
}

fn give_back_files() {
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for mapping in unwritten_files(&mappings) {
        mapping.unmap_pages();
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "a call into the C library")]
    // SAFETY: it takes no pointer, and locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A part of a file in this process's address space, by its first address and
/// its length in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: NonZero<usize>,
    len: usize,
}

impl Mapping {
    /// Which of its pages are needed shows when they are touched: they come
    /// back from the page cache, without a read.
    fn unmap_pages(&self) {
        let start = NonNull::<c_void>::without_provenance(self.start);
        #[expect(unsafe_code, reason = "a call about addresses")]
        // SAFETY: nothing but the file is in these pages, which cannot be
        // written: what is read there stays the same.
        let result = unsafe { madvise(start, self.len, MmapAdvise::MADV_DONTNEED) };
        if let Err(error) = result {
            tracing::debug!(%error, "giving back pages of the program");
        }
    }
}

/// Those of `/proc/PID/smaps` that hold nothing but a file's own pages and
/// cannot be written. What the dynamic linker has changed and protected since
/// has pages of its own.
fn unwritten_files(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(current.take()),
            (Some(range), Some(access)) if !range.ends_with(':') => {
                let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                let is_read_only = access.starts_with("r-") && access.ends_with('p');
                current = (is_file && is_read_only).then(|| mapping(range)).flatten();
            }
            _ => {}
        }
    }
    found
}

fn mapping(range: &str) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).ok());
    let start = NonZero::new(start?)?;
    Some(Mapping {
        start,
        len: end?.checked_sub(start.get())?,
    })
}

/// In bytes.
pub fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many small pieces, of which the last stays: without a trim, glibc keeps
    /// the rest for later.
    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_goes_back() {
        const PIECES: usize = 60_000;
        let mut memory = Memory::after_start();
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; 1_000]).collect();
        let full = resident().unwrap();
        let last = pieces.pop();
        drop(pieces);
        memory.look();
        let now = resident().unwrap();
        assert!(now + (40 << 20) < full, "{now} of {full} bytes are left");
        drop(last);
    }

    /// As the kernel tells them, but for the lines that nobody reads.
    const SMAPS: &str = "\
5581c0000000-5581c0400000 r--p 00000000 fe:00 131     /usr/bin/mtls-daemon
Rss:                2048 kB
Anonymous:             0 kB
5581c0400000-5581c1000000 r-xp 00400000 fe:00 131     /usr/bin/mtls-daemon
Anonymous:             0 kB
5581c1000000-5581c1080000 r--p 01000000 fe:00 131     /usr/bin/mtls-daemon
Anonymous:           512 kB
5581c1080000-5581c1084000 rw-p 01080000 fe:00 131     /usr/bin/mtls-daemon
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 00:0e 1057    anon_inode:bpf-map
Anonymous:             0 kB
7f0000002000-7f0000003000 r--s 00000000 fe:00 9       /var/lib/shared
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0       [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_pages_that_are_a_files_own_are_given_back() {
        let text = |start, len| Mapping {
            start: NonZero::new(start).unwrap(),
            len,
        };
        let expected = [
            text(0x5581_c000_0000, 0x40_0000),
            text(0x5581_c040_0000, 0xc0_0000),
        ];
        assert_eq!(unwritten_files(SMAPS), expected);
    }

    #[test]
    fn the_program_goes_on_without_the_pages_of_its_start() {
        static WORDS: [&str; 3] = ["still", "where", "they were"];
        let before = WORDS.concat();
        let _memory = Memory::after_start();
        assert_eq!(WORDS.concat(), before);
    }
}
