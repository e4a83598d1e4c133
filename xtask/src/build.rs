//! `cargo xtask build`: kernel programs, then the daemon that embeds them.

use crate::build_ebpf;
use crate::command;
use crate::failure::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

pub(crate) fn run(profile: Profile) -> Result {
    build_ebpf::run()?;
    command::run(
        command::cargo()
            .args(["build", "--package", "mtls-daemon"])
            .args(profile.flag()),
    )
}

impl Profile {
    pub(crate) fn flag(self) -> Option<&'static str> {
        (self == Self::Release).then_some("--release")
    }
}
