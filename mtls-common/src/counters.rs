//! What the hooks count: one number a CPU for each hook and outcome.

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "bpf"), derive(Hash, PartialOrd, Ord))]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word in metrics, status and tests.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// A place in the kernel at which a program of ours runs.
    Hook {
        Connect4 = "connect4",
        Connect6 = "connect6",
        SendMsg4 = "sendmsg4",
        SendMsg6 = "sendmsg6",
        SockOps = "sock_ops",
        SkLookup = "sk_lookup",
        GetPeerName4 = "getpeername4",
        GetPeerName6 = "getpeername6",
        GetSockName4 = "getsockname4",
        GetSockName6 = "getsockname6",
        Ingress = "cgroup_ingress",
        Egress = "cgroup_egress",
        SockCreate = "sock_create",
        /// At the cgroup of whoever probes the workloads.
        Prober = "prober",
        /// At the node's end of each enrolled workload's veth.
        Veth = "veth",
    }
}

words! {
    /// What a hook did with a connection, a packet or a question.
    Outcome {
        /// The connection was turned towards the daemon.
        Captured = "captured",
        /// The original destination was put where the daemon finds it.
        Recorded = "recorded",
        /// It could not be: there was no room left. The connection is dropped.
        RecordFailed = "record_failed",
        /// Its SYN waits until the daemon has heard of the far application.
        Held = "held",
        /// It could not wait: it carries data, or the daemon does not keep up.
        NotHeld = "not_held",
        /// A captured connection was given to a listener of the daemon.
        SteeredCapture = "steered_capture",
        /// A tunnel was given to a listener of the daemon.
        SteeredTunnel = "steered_tunnel",
        /// Plain text for a permissive workload was given to the daemon.
        SteeredPlaintext = "steered_plaintext",
        /// The application was told the name it expects.
        Named = "named",
        /// Nothing is known about the peer: the unknown address was told.
        NameUnknown = "name_unknown",
        PassedLoopback = "passed_loopback",
        /// The daemon's own.
        PassedExempt = "passed_exempt",
        PassedNotEnrolled = "passed_not_enrolled",
        PassedOwnAddress = "passed_own_address",
        PassedExcluded = "passed_excluded",
        /// A probe of the node's own prober, at a port that is meant for it.
        PassedProbe = "passed_probe",
        /// Outside of the mesh, under `outside = "direct"`.
        PassedOutside = "passed_outside",
        /// It had left before its workload became permissive.
        PassedPermissive = "passed_permissive",
        /// Of an unknown network namespace, under `unknown = "pass"`.
        PassedUnknown = "passed_unknown",
        /// Of an unknown network namespace, under `unknown = "refuse"`.
        RefusedUnknown = "refused_unknown_workload",
        /// Outside of the mesh, under `outside = "refuse"`.
        RefusedOutside = "refused_outside",
        /// The same destination was refused within the last second.
        RefusedRecently = "refused_recently",
        /// No daemon listens.
        RefusedNoListener = "refused_no_listener",
        /// As many connections of its network namespace as there is room for
        /// wait for the daemon.
        RefusedPending = "refused_pending",
        /// The kernel had no memory to remember the destination.
        RefusedNoMemory = "refused_no_memory",
        /// Plain text from outside to a strict workload.
        RefusedPlaintext = "refused_plaintext",
        /// A datagram under `udp = "refuse"`.
        RefusedUdp = "refused_udp",
        /// A raw socket that could carry hand-made TCP.
        RefusedRaw = "refused_raw",
        /// A connection that slipped past the other hooks, stopped by a gate.
        Dropped = "dropped",
    }
}

/// Where the counter of a hook's outcome lies in the map.
pub const fn index(hook: Hook, outcome: Outcome) -> u32 {
    hook as u32 * OUTCOMES + outcome as u32
}

/// Entries of the counter map.
pub const COUNT: u32 = HOOKS * OUTCOMES;

#[expect(clippy::cast_possible_truncation, reason = "a handful")]
const HOOKS: u32 = Hook::ALL.len() as u32;
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
const OUTCOMES: u32 = Outcome::ALL.len() as u32;
