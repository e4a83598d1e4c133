//! Where a workload was found, as it is pinned with its network namespace.

use crate::config::Place;

/// What tells a later daemon, or a later configuration, whether a network
/// namespace that nobody serves has only lost its place, or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FoundAt(pub(super) u64);

impl FoundAt {
    /// Enrolled beside the configuration, which therefore cannot give it up: by
    /// hand, or as a pod.
    pub const BESIDE: Self = Self(0);

    /// The hash is pinned: daemons of other versions must find the same one.
    pub fn place(place: &Place) -> Self {
        // FNV-1a, from <http://www.isthe.com/chongo/tech/comp/fnv/>.
        let hash = place
            .to_string()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Self(hash.max(1))
    }
}

/// What the hooks know of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Left alone.
    NotEnrolled,
    /// Its connections are captured; refused as long as nobody listens.
    Enrolled(FoundAt),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_by_other_versions() {
        let web = FoundAt::place(&Place::Netns("/run/netns/web".into()));
        assert_eq!(
            web,
            FoundAt(0x7536_1b8c_d9fa_8d39),
            "as versions before this one found it"
        );
        assert_ne!(web, FoundAt::place(&Place::Cgroup("/run/netns/web".into())));
        assert_ne!(web, FoundAt::BESIDE);
    }
}
