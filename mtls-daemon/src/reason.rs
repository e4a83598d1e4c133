//! The one published list of reason codes: why a connection was refused, cut,
//! or left alone, or why a handshake failed. The same word stands in the log,
//! the metrics, the status output and the tests, and each carries what an
//! operator should do about it.

use std::fmt;
use std::str::FromStr;

/// What a reason can explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// How an established connection ended.
    Ended,
    /// Why a connection was not established.
    Refused,
    /// Why a TLS handshake failed.
    Handshake,
    /// Why a workload is not ready.
    Workload,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal [$($used:ident),*], $remedy:literal;)*) => {
        /// Why something was refused, cut or passed by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)* }

        impl Reason {
            /// Every reason, in the order of the published list.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word used in logs, metrics, status output and tests.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What happened, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Where it can stand.
            pub fn uses(self) -> &'static [Use] {
                match self { $(Self::$variant => &[$(Use::$used),*],)* }
            }

            /// What to do about it, in one sentence for an operator.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    // How connections end without a fault.
    /// Both sides closed in order.
    Done = "done" [Ended], "Nothing: both applications closed the connection.";
    /// The application at this side reset the connection or vanished.
    ResetByLocalApp = "reset_by_local_app" [Ended, Refused], "Look at the local application: it reset its connection.";
    /// The far application, or its daemon, reset the connection.
    ResetByPeer = "reset_by_peer" [Ended, Refused], "Look at the far application and at its daemon's access log, under the same connection id.";
    /// The tunnel under the connection was lost.
    TunnelLost = "tunnel_lost" [Ended, Refused], "The tunnel to the peer's daemon broke: look at the network between the nodes and at the peer's daemon.";
    /// The certificate that a side proved for this tunnel has expired.
    TunnelExpired = "tunnel_expired" [Ended], "A connection outlived the certificate proved on its tunnel: use a longer certificate lifetime, or let the application reconnect.";
    /// The drain deadline passed with the connection still open.
    DrainDeadline = "drain_deadline" [Ended], "The daemon was stopping and its drain deadline passed: raise limits.drain if connections need longer.";

    /// The workload left the node, or was taken out of the configuration.
    WorkloadRemoved = "workload_removed" [Ended, Refused], "The workload is no longer enrolled here: nothing, if that was meant.";

    // Why the capturing side refuses.
    /// Nobody recorded an original destination for an accepted connection.
    NoOriginalDst = "no_original_dst" [Refused], "Something dialled the capture address directly, or the hand-off map was full: see mtls_bpf_map_entries.";
    /// The network namespace is not known to the daemon.
    UnknownWorkload = "unknown_workload" [Refused], "Enrol the workload, or mark its namespace as not enrolled, or set node.unknown to pass.";
    /// The destination lies in a mesh network, but no workload is known there.
    UnknownDestination = "unknown_destination" [Refused], "Add the address to a [[workload]], [[peer]] or [[service]], or exclude its network.";
    /// The destination is known to have no daemon, and the workload is strict.
    NotEnrolled = "not_enrolled" [Refused, Ended], "Enrol the destination, or make the workload permissive until it is.";
    /// The destination is outside of the mesh and `outside` refuses.
    OutsideRefused = "outside_refused" [Refused], "Set node.outside to direct, or exclude the network, if workloads may reach it.";
    /// No endpoint of the service is healthy.
    NoHealthyEndpoint = "no_healthy_endpoint" [Refused], "All endpoints of the service failed lately: look at them.";
    /// The workload has no usable certificate.
    NoCert = "no_cert" [Refused, Handshake, Workload], "A side has no certificate to show: for a workload of this node look at `mtls-daemon status` and at the identity source; a peer that presents none is no mesh peer.";
    /// The peer's daemon could not be reached.
    PeerUnreachable = "peer_unreachable" [Refused], "No daemon answered at the peer's tunnel address: see whether the peer is enrolled, and whether the network allows the tunnel port.";
    /// The peer's daemon refused the request as not allowed.
    RefusedByPeer = "refused_by_peer" [Refused], "The peer's daemon refused this client: see its access log, under the same connection id.";
    /// The peer's daemon could not reach its application.
    UpstreamRefused = "upstream_refused" [Refused], "The destination application does not listen at that port.";

    // Why the delivering side refuses.
    /// The request is not a valid CONNECT.
    BadRequest = "bad_request" [Refused], "The peer sent a malformed tunnel request: check its version.";
    /// The identity is not known at the tunnel's source address.
    IdentityNotAtAddress = "identity_not_at_address" [Refused], "The directory does not know this identity at that address: add it as a [[peer]], or find out who is using it.";
    /// Policy does not allow this client.
    NotAuthorised = "not_authorised" [Refused, Ended], "A policy denies this client, or none allows it: the access log names the rule, and `mtls-daemon policy test` goes through all of them.";
    /// The destination is not a workload of this node.
    NotLocal = "not_local" [Refused], "The peer asked for a workload that is not on this node: its directory is stale.";
    /// Plain text arrived where the mode is strict.
    PlaintextRefused = "plaintext_refused" [Refused, Ended], "A client without a tunnel dialled a strict workload: enrol the client or exclude the port.";
    /// The local application could not be dialled.
    DialFailed = "dial_failed" [Refused], "The local application does not listen, or did not accept in time.";

    // Why a workload is not ready.
    /// The place that the workload is found by does not exist.
    PlaceNotFound = "place_not_found" [Workload], "The network namespace, cgroup or unit does not exist: start the workload, or correct where it is found.";
    /// The workload's network namespace belongs to another workload already, or to the host.
    NamespaceTaken = "namespace_taken" [Workload], "One network namespace is one workload, and the host's is none: correct where the workload is found.";
    /// An address of the workload is not assigned in its network namespace.
    AddressNotAssigned = "address_not_assigned" [Workload], "Assign the address in the workload's network namespace, or correct workload.addresses.";
    /// Listeners or hooks could not be put into place.
    AttachFailed = "attach_failed" [Workload], "The kernel refused the workload's listeners or hooks: the detail names the call that failed.";
    /// The pod is of a kind whose connections the daemon cannot take.
    CannotEnrol = "cannot_enrol" [Workload], "Nothing, if the pod may talk in clear: label it off to say so; else run it without hostNetwork and outside of sandboxed runtimes.";
    /// The workload to enrol is neither configured nor given an identity.
    NotConfigured = "not_configured" [Workload], "No [[workload]] is found at this place: add one, or enrol with --spiffe-id.";

    // Limits.
    /// A limit of the daemon was reached.
    LimitReached = "limit_reached" [Refused], "A configured limit was reached: see [limits] and the limit metrics.";
    /// The process has no file descriptors left.
    NoDescriptors = "no_descriptors" [Refused], "The daemon is at its file descriptor limit: raise it (LimitNOFILE=).";
    /// Something took longer than it may.
    Timeout = "timeout" [Refused, Handshake], "A step took longer than its limit: look at the peer and at [limits].";
    /// The daemon is stopping and takes no new connections.
    Draining = "draining" [Refused], "The daemon is stopping; its successor takes new connections.";

    // Handshake failures.
    /// The peer's certificate has expired.
    Expired = "expired" [Handshake, Refused], "The peer's certificate has expired: look at its issuer and at both clocks.";
    /// The peer's certificate is not valid yet.
    NotYetValid = "not_yet_valid" [Handshake, Refused], "The peer's certificate is not valid yet: compare the clocks.";
    /// No root in the trust bundle issued the peer's certificate.
    UnknownIssuer = "unknown_issuer" [Handshake, Refused, Ended], "The peer's certificate comes from an authority that is not in the trust bundle of its trust domain.";
    /// A certificate in the peer's chain is revoked.
    Revoked = "revoked" [Handshake, Refused, Ended], "Its authority withdrew it: give the workload a new certificate, or correct the revocation list.";
    /// No current revocation list says whether the peer's certificate still counts.
    RevocationUnknown = "revocation_unknown" [Handshake, Refused], "Bring the revocation lists of [[identity.crl]] up to date: `mtls-daemon certificates` says what is wrong with them.";
    /// The peer's certificate does not carry exactly one valid SPIFFE ID, or another than the expected one.
    BadSan = "bad_san" [Handshake, Refused], "The peer's certificate carries another identity than expected, or not exactly one SPIFFE ID.";
    /// The peer's trust domain is unknown here.
    TrustDomain = "trust_domain" [Handshake, Refused, Ended], "The peer's trust domain has no bundle here: federate it, or fix the peer.";
    /// The certificate may not be used for this side of TLS.
    BadEku = "bad_eku" [Handshake, Refused], "The peer's certificate lacks the extended key usage for this direction.";
    /// The chain breaks a constraint.
    BadChain = "bad_chain" [Handshake, Refused, Ended], "The peer's certificate chain is malformed or breaks a constraint of its authority.";
    /// No TLS version in common.
    NoCommonVersion = "no_common_version" [Handshake, Refused], "The peer does not speak TLS 1.3.";
    /// No key exchange group in common.
    NoCommonGroup = "no_common_group" [Handshake, Refused], "The peer offers no key exchange group that is allowed here.";
    /// No application protocol in common.
    NoCommonProtocol = "no_common_protocol" [Handshake, Refused], "The peer speaks TLS but not HTTP/2 (ALPN h2) inside it: it is not a mesh peer.";
    /// The peer ended the handshake with an alert.
    AlertFromPeer = "alert_from_peer" [Handshake, Refused], "The peer refused our certificate: see its log.";
    /// The peer closed the connection during the handshake.
    Eof = "eof" [Handshake, Refused], "The peer closed the connection during the handshake.";
    /// The peer does not speak TLS.
    NotTls = "not_tls" [Handshake, Refused], "Something that does not speak TLS dialled the tunnel port.";
    /// The network failed during the handshake.
    Io = "io" [Handshake, Refused], "The network failed during the handshake.";
    /// A fault of our own.
    Internal = "internal" [Ended, Refused, Handshake, Workload], "A fault of the daemon: please report it with the log line.";
}

impl Use {
    pub const ALL: &[Self] = &[Self::Ended, Self::Refused, Self::Handshake, Self::Workload];

    /// In the published list.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ended => "end",
            Self::Refused => "refusal",
            Self::Handshake => "handshake",
            Self::Workload => "workload",
        }
    }
}

/// docs/reasons.md: the published list.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Reason codes\n\n\
         Why a connection ended or was refused, why a handshake failed, why a workload is not ready. The same word stands\n\
         in the log (`reason`), in the metrics (label `reason`), in `mtls-daemon status` and in `mtls-daemon explain WORD`.\n\
         A word never changes its meaning; new ones may be added.\n\n\
         Where a reason can stand: *end* of an established connection, *refusal* of a new one, failed *handshake*, state of\n\
         a *workload*.\n\n\
         | word | where | what happened | what to do |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let uses: Vec<&str> = reason.uses().iter().map(|used| used.word()).collect();
        out.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            reason.word(),
            uses.join(", "),
            reason.meaning(),
            reason.remedy()
        ));
    }
    out
}

/// A word that is no reason code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no reason code")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.word() == word)
            .ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique_and_fit_a_label() {
        let words: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(words.iter().all(|word| word.bytes().all(fits)));
    }

    #[test]
    fn every_reason_is_explained_in_sentences() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}");
            assert!(reason.remedy().ends_with('.'), "{reason}");
            assert!(!reason.uses().is_empty(), "{reason}");
            assert_eq!(reason.word().parse(), Ok(*reason));
        }
    }
}
