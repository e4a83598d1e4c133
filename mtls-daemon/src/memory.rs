//! What this process holds of the machine's memory, and giving back what it
//! does not use any more.
//!
//! glibc keeps what was freed between two pieces that are still in use. After
//! the kernel's types were read and its programs loaded that is 20 MB, and
//! after a burst of connections a few more.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Less is not worth a walk through every heap.
const SLACK: u64 = 2 << 20;

/// The process's memory, as far as it was looked after.
#[derive(Debug)]
pub struct Memory {
    /// The fewest bytes that were resident when some had been given back.
    least: u64,
}

impl Memory {
    /// Gives back now.
    pub fn give_back() -> Self {
        trim();
        Self {
            least: resident().unwrap_or(u64::MAX),
        }
    }

    /// Gives back if there may be something. What was in use at the last look
    /// may be free by now, without a change of the figure.
    pub fn look(&mut self) {
        if resident().is_some_and(|now| now > self.least.saturating_add(SLACK)) {
            self.least = self.least.min(Self::give_back().least);
        }
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
        let mut memory = Memory::give_back();
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; 1_000]).collect();
        let full = resident().unwrap();
        let last = pieces.pop();
        drop(pieces);
        memory.look();
        let now = resident().unwrap();
        assert!(now + (40 << 20) < full, "{now} of {full} bytes are left");
        drop(last);
    }
}
