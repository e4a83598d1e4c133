//! What a proxy costs: the kernel's own accounts of its cgroup, which count
//! the processor time of every process that was ever in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtls_tests::cgroup::Cgroup;
use mtls_tests::{Doing, Error, Result};

pub(crate) struct Account {
    path: PathBuf,
    /// Removed with the account, if it is ours.
    _cgroup: Option<Cgroup>,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Account {
    pub(crate) fn of(cgroup: Cgroup) -> Self {
        Self {
            path: cgroup.path().to_owned(),
            _cgroup: Some(cgroup),
        }
    }

    /// Of a cgroup that somebody else removes.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self {
            path,
            _cgroup: None,
        }
    }

    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let file = self.path.join("cpu.stat");
        let text = read(&file)?;
        Cpu::parse(&text).ok_or_else(|| Error::Unreadable {
            what: file.display().to_string(),
            why: format!("no user_usec and system_usec in {text:?}"),
        })
    }

    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let text = read(&self.path.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Resident memory that is the processes' own, in bytes: what is mapped
    /// from files is left out, since several share it.
    pub(crate) fn anonymous(&self) -> Result<u64> {
        self.sum("RssAnon:")
    }

    /// All resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.sum("VmRSS:")
    }

    fn sum(&self, field: &str) -> Result<u64> {
        let mut sum = 0;
        for pid in self.pids()? {
            let text = read(Path::new(&format!("/proc/{pid}/status")))?;
            let kib = text
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            sum += kib.unwrap_or(0) << 10;
        }
        Ok(sum)
    }
}

impl Cpu {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(Duration::from_micros(line.trim().parse().ok()?))
        };
        Some(Self {
            user: field("user_usec ")?,
            system: field("system_usec ")?,
        })
    }

    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl std::ops::Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl std::ops::Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            user: self.user.saturating_sub(other.user),
            system: self.system.saturating_sub(other.system),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_account() {
        let text = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnice_usec 0\n";
        let cpu = Cpu::parse(text).unwrap();
        assert_eq!(cpu.user, Duration::from_micros(10));
        assert_eq!(cpu.total(), Duration::from_micros(30));
        assert_eq!(Cpu::parse("usage_usec 30\n"), None);
    }
}
