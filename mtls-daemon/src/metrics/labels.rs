//! Every value that a label may take, as types: a label that a peer or a
//! workload chooses cannot be written down here, so the number of series is
//! bounded when the daemon is compiled.

use rustls::NamedGroup;

use crate::reason::Reason;

/// One label, or several side by side, with a fixed set of values.
pub trait Labels: Copy {
    const COUNT: usize;
    /// Position in a table of `COUNT` cells.
    fn index(self) -> usize;
    /// The label values of the cell at `index`, in the order of the family's label names.
    fn values(index: usize, out: &mut Vec<&'static str>);
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn values(index: usize, out: &mut Vec<&'static str>) {
        A::values(index / B::COUNT, out);
        B::values(index % B::COUNT, out);
    }
}

/// No label at all.
impl Labels for () {
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn values(_: usize, _: &mut Vec<&'static str>) {}
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word that stands in the label.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl Labels for $name {
            const COUNT: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn values(index: usize, out: &mut Vec<&'static str>) {
                out.push(Self::ALL[index].word());
            }
        }
    };
}

label! {
    /// Seen from this node's workload.
    #[derive(PartialOrd, Ord)]
    Direction {
        /// The workload opened the connection.
        Outbound = "outbound",
        /// The workload receives the connection.
        Inbound = "inbound",
    }
}

label! {
    /// What became of a connection that reached the daemon.
    ConnectionResult {
        /// Bytes may flow.
        Established = "established",
        /// Refused, for a reason that `connections_refused_total` names.
        Refused = "refused",
    }
}

label! {
    /// What came of a connect() that waited for the far application.
    HeldConnect {
        /// The far application accepted: connect() succeeded.
        Released = "released",
        /// connect() failed, for a reason that `connections_refused_total` names.
        Refused = "refused",
        /// The same, because `limits.establish` passed.
        TimedOut = "timed_out",
        /// The application closed its socket first.
        GivenUp = "given_up",
    }
}

label! {
    /// Which way bytes went, within one connection.
    Towards {
        /// To the peer's daemon, through the tunnel.
        Peer = "peer",
        /// To the application at this node.
        App = "app",
    }
}

label! {
    /// How a flow came by its tunnel.
    Acquire {
        /// A tunnel was there.
        Hit = "hit",
        /// This flow dialled one.
        Miss = "miss",
        /// Another flow was dialling one already.
        Wait = "wait",
    }
}

label! {
    /// What a pooled tunnel is doing.
    PoolState {
        /// Being dialled, up to the end of its handshake.
        Connecting = "connecting",
        Open = "open",
    }
}

label! {
    /// Why a connection travels in clear.
    Plaintext {
        /// The destination lies outside of the mesh, and `node.outside` is direct.
        Outside = "outside",
        /// Its network or port is excluded.
        Excluded = "excluded",
        /// The destination is known to have no daemon, and the workload is permissive.
        NotEnrolled = "not_enrolled",
        /// A client without a tunnel called a permissive workload.
        Permissive = "permissive",
        /// Nobody classified the network namespace, and `node.unknown` is pass.
        UnknownWorkload = "unknown_workload",
    }
}

label! {
    /// Who called in clear, by the address.
    #[derive(PartialOrd, Ord)]
    Caller {
        /// A workload that has a daemon.
        Workload = "workload",
        /// One that is known to have none.
        NotEnrolled = "not_enrolled",
        /// A node of the cluster, or a pod in its network namespace.
        Node = "node",
        /// Nobody is known there, in a network of the mesh.
        Unknown = "unknown",
        Outside = "outside",
    }
}

label! {
    /// A limit of the configuration or of the process.
    Limit {
        PendingPerWorkload = "pending_per_workload",
        HandshakesPerWorker = "handshakes_per_worker",
        StreamsPerTunnel = "streams_per_tunnel",
        BufferPerWorkload = "buffer_per_workload",
        BufferTotal = "buffer_total",
        Descriptors = "descriptors",
        /// A kernel map had no room.
        KernelMap = "kernel_map",
    }
}

label! {
    /// Why a peer lost its tunnel.
    TunnelFault {
        /// It went past a limit of the protocol's: resets, PINGs, headers without end.
        Flood = "flood",
        /// It broke the protocol.
        Protocol = "protocol",
        /// It answered no keepalive.
        Silent = "silent",
    }
}

label! {
    /// What the policies say of a connection.
    #[derive(PartialOrd, Ord)]
    Decided {
        Allowed = "allowed",
        Denied = "denied",
        /// With the dry runs in force.
        WouldAllow = "dry_run_allowed",
        WouldDeny = "dry_run_denied",
    }
}

label! {
    /// How an attempt ended.
    Outcome {
        Ok = "ok",
        Error = "error",
    }
}

label! {
    /// Key exchange group of a handshake.
    Group {
        X25519MlKem768 = "X25519MLKEM768",
        Secp256r1MlKem768 = "secp256r1MLKEM768",
        X25519 = "X25519",
        Secp256r1 = "secp256r1",
        Secp384r1 = "secp384r1",
        Other = "other",
    }
}

impl From<Option<NamedGroup>> for Group {
    fn from(group: Option<NamedGroup>) -> Self {
        match group {
            Some(NamedGroup::X25519MLKEM768) => Self::X25519MlKem768,
            Some(NamedGroup::secp256r1MLKEM768) => Self::Secp256r1MlKem768,
            Some(NamedGroup::X25519) => Self::X25519,
            Some(NamedGroup::secp256r1) => Self::Secp256r1,
            Some(NamedGroup::secp384r1) => Self::Secp384r1,
            _ => Self::Other,
        }
    }
}

/// How a handshake ended: labels result, resumed, version and group. A failed
/// one leaves the last three empty, for they may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Failed,
    Done { resumed: bool, group: Group },
}

impl Labels for Handshake {
    const COUNT: usize = 1 + 2 * Group::COUNT;

    fn index(self) -> usize {
        match self {
            Self::Failed => 0,
            Self::Done { resumed, group } => {
                1 + usize::from(resumed) * Group::COUNT + group.index()
            }
        }
    }

    fn values(index: usize, out: &mut Vec<&'static str>) {
        let Some(index) = index.checked_sub(1) else {
            out.extend(["error", "", "", ""]);
            return;
        };
        let resumed = if index >= Group::COUNT {
            "true"
        } else {
            "false"
        };
        // TLS 1.3 is the only version that the daemon speaks.
        out.extend(["ok", resumed, "1.3"]);
        Group::values(index % Group::COUNT, out);
    }
}

impl Labels for Reason {
    const COUNT: usize = Self::ALL.len();

    fn index(self) -> usize {
        self as usize
    }

    fn values(index: usize, out: &mut Vec<&'static str>) {
        out.push(Self::ALL[index].word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_values<L: Labels>() -> Vec<Vec<&'static str>> {
        (0..L::COUNT)
            .map(|index| {
                let mut out = Vec::new();
                L::values(index, &mut out);
                out
            })
            .collect()
    }

    #[test]
    fn a_pair_has_a_cell_for_each_combination() {
        let values = all_values::<(Direction, Acquire)>();
        assert_eq!(values.len(), 6);
        let index = (Direction::Inbound, Acquire::Wait).index();
        assert_eq!(values[index], ["inbound", "wait"]);
    }

    #[test]
    fn handshake_labels_match_their_index() {
        let values = all_values::<Handshake>();
        assert_eq!(values[Handshake::Failed.index()], ["error", "", "", ""]);
        for &group in Group::ALL {
            for resumed in [false, true] {
                let index = Handshake::Done { resumed, group }.index();
                assert_eq!(
                    values[index],
                    [
                        "ok",
                        if resumed { "true" } else { "false" },
                        "1.3",
                        group.word()
                    ]
                );
            }
        }
    }

    #[test]
    fn every_reason_is_at_its_own_index() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }
}
