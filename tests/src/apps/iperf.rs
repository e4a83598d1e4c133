//! iperf3, which measures throughput.

use serde_json::Value;

use crate::deadline::{Deadline, wait_for};
use crate::error::{Error, Result};
use crate::node::Family;
use crate::pod::Pod;
use crate::process::Process;

/// An iperf3 server.
#[derive(Debug)]
pub struct Iperf {
    process: Process,
    pod: Pod,
    port: u16,
}

/// What a client measured.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    pub bits_per_second: f64,
}

impl Iperf {
    /// Listens on the port of all addresses of both families.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let process = pod
            .spawn("iperf3")?
            .args(["-s", "-p", &port.to_string()])
            .start()?;
        let mut iperf = Self {
            process,
            pod: pod.clone(),
            port,
        };
        wait_for(
            Deadline::default(),
            || format!("iperf3 to listen on port {port} of {}", pod.name()),
            || {
                iperf.process.must_run()?;
                Ok(pod.netns().listens(port)?.then_some(()))
            },
        )?;
        Ok(iperf)
    }

    /// A client in another pod; `args` such as `-n 100M` or `-R`.
    pub fn measure(&self, from: &Pod, family: Family, args: &[&str]) -> Result<Transfer> {
        let to = self.pod.address(family).to_string();
        let port = self.port.to_string();
        let said = from
            .run("iperf3", ["-J", "-c", &to, "-p", &port].iter().chain(args))?
            .success()?;
        let unreadable = |why: String| Error::Unreadable {
            what: format!("iperf3's answer: {said}"),
            why,
        };
        let answer: Value = serde_json::from_str(&said).map_err(|e| unreadable(e.to_string()))?;
        let sum = &answer["end"]["sum_received"];
        match (sum["bytes"].as_u64(), sum["bits_per_second"].as_f64()) {
            (Some(bytes), Some(bits_per_second)) => Ok(Transfer {
                bytes,
                bits_per_second,
            }),
            _ => Err(unreadable("it has no sum".into())),
        }
    }
}
