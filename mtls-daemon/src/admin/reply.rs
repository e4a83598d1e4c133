//! Questions and answers on the admin socket; also what `--output json` prints.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::readiness::Verdict;
use crate::policy::Explanation;
use crate::reason::Reason;

use super::strict::StrictReadiness;
use super::text;
use super::view::{Certificates, Connection, EnrolRequest, NodeStatus, WorkloadState};

/// Version of the JSON. Fields may be added within a version; none changes
/// its meaning or goes away.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    pub schema: u32,
    #[serde(with = "text::time")]
    pub time: SystemTime,
    pub status: NodeStatus,
    pub ready: Verdict,
    pub healthy: Verdict,
    pub hooks: Vec<HookReply>,
    pub threads: Vec<ThreadReply>,
    pub descriptors: Option<DescriptorsReply>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookReply {
    pub hook: String,
    pub attached: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadReply {
    pub name: String,
    #[serde(with = "text::seconds", rename = "silent_seconds")]
    pub silent: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DescriptorsReply {
    pub used: u64,
    pub most: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsReply {
    pub schema: u32,
    #[serde(with = "text::time")]
    pub time: SystemTime,
    pub connections: Vec<Connection>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificatesReply {
    pub schema: u32,
    #[serde(with = "text::time")]
    pub time: SystemTime,
    #[serde(flatten)]
    pub all: Certificates,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolQuestion {
    pub request: EnrolRequest,
    /// Answer when the workload is ready or has failed, but after this time at the latest.
    #[serde(with = "text::seconds", rename = "wait_seconds")]
    pub wait: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolReply {
    pub schema: u32,
    pub workload: String,
    #[serde(flatten)]
    pub state: WorkloadState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrictReply {
    pub schema: u32,
    pub workloads: Vec<StrictReadiness>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTestReply {
    pub schema: u32,
    #[serde(flatten)]
    pub explanation: Explanation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReply {
    pub schema: u32,
    #[serde(with = "text::option")]
    pub reason: Option<Reason>,
    pub detail: String,
}
