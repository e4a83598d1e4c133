//! Where the running kernel keeps a field of one of its structures, from its
//! own type information (BTF): offsets differ between kernels, and no helper
//! tells what these fields hold.

use std::fs;

use super::error::KernelError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The fields that the hooks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// Byte and bit of `sock_common.skc_ipv6only`.
    pub(super) v6only_offset: u32,
    pub(super) v6only_mask: u8,
    /// `sock_common.skc_net`, a pointer.
    pub(super) net_offset: u32,
    /// `net.net_cookie`, 64 bits.
    pub(super) cookie_offset: u32,
    /// Whether there is a `mptcp_sock`.
    pub(super) has_mptcp: u8,
}

impl Offsets {
    pub(super) fn of_running_kernel() -> Result<Self, KernelError> {
        Self::of(&fs::read(VMLINUX).map_err(KernelError::NoBtf)?)
    }

    fn of(btf: &[u8]) -> Result<Self, KernelError> {
        let find = |structure: &str, member: &str, what| {
            member_bit(btf, structure, member).ok_or(KernelError::BtfWithout { what })
        };
        let v6only = find("sock_common", "skc_ipv6only", "sock_common.skc_ipv6only")?;
        let net = find("sock_common", "skc_net", "sock_common.skc_net")?;
        let cookie = find("net", "net_cookie", "net.net_cookie")?;
        Ok(Self {
            v6only_offset: v6only / 8,
            v6only_mask: 1 << (v6only % 8),
            net_offset: net / 8,
            cookie_offset: cookie / 8,
            has_mptcp: member_bit(btf, "mptcp_sock", "sk").is_some().into(),
        })
    }
}

/// The first bit of a structure's member. `None` also if the data is not what
/// <https://docs.kernel.org/6.1/bpf/btf.html> says.
fn member_bit(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
    const STRUCT: u32 = 4;
    let word = |at: usize| {
        let bytes = btf.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let size = |at: usize| usize::try_from(word(at)?).ok();
    if word(0)? & 0xffff != 0xeb9f {
        return None;
    }
    let header = size(4)?;
    let types = header.checked_add(size(8)?)?;
    let types_end = types.checked_add(size(12)?)?;
    let strings = header.checked_add(size(16)?)?;
    let is_named = |offset: usize, name: &str| {
        btf.get(strings + offset..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    };
    let mut at = types;
    while at < types_end {
        let name = size(at)?;
        let info = word(at + 4)?;
        let kind = info >> 24 & 0x1f;
        let entries = usize::try_from(info & 0xffff).ok()?;
        let bitfields = info >> 31 == 1;
        let body = at + 12;
        if kind == STRUCT && is_named(name, structure) {
            let found = (0..entries)
                .map(|nth| body + nth * 12)
                .find(|&entry| size(entry).is_some_and(|name| is_named(name, member)));
            if let Some(entry) = found {
                let offset = word(entry + 8)?;
                // In a structure with bit fields the high byte is the width.
                return Some(if bitfields {
                    offset & 0x00ff_ffff
                } else {
                    offset
                });
            }
        }
        at = body + entry_size(kind)? * if counts_entries(kind) { entries } else { 1 };
    }
    None
}

/// Bytes behind a type's head: for each entry, or once.
fn entry_size(kind: u32) -> Option<usize> {
    Some(match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Structure, union, section, 64-bit enumeration.
        4 | 5 | 15 | 19 => 12,
        // Enumeration, function's parameters.
        6 | 13 => 8,
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn counts_entries(kind: u32) -> bool {
    matches!(kind, 4 | 5 | 6 | 13 | 15 | 19)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_running_kernels_fields() {
        let offsets = Offsets::of_running_kernel().expect("this kernel has BTF");
        // The same from 6.1 to 6.18, as far as anybody looked.
        assert_eq!(
            (offsets.v6only_offset, offsets.v6only_mask),
            (19, 1 << 5),
            "{offsets:?}"
        );
    }

    #[test]
    fn a_structure_that_is_not_there_is_not_found() {
        let btf = fs::read(VMLINUX).expect("this kernel has BTF");
        assert_eq!(member_bit(&btf, "sock_common", "skc_nonsense"), None);
        assert_eq!(member_bit(&btf, "nonsense", "skc_net"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let [a, b, ..] = bytes.as_mut_slice() {
                (*a, *b) = (0x9f, 0xeb);
            }
            member_bit(&bytes, "net", "net_cookie");
        }
    }
}
