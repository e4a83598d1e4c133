//! Redis, the key-value store.

use crate::deadline::{Deadline, wait_for};
use crate::error::Result;
use crate::pod::Pod;
use crate::process::Process;

/// A Redis without persistence.
#[derive(Debug)]
pub struct Redis {
    process: Process,
}

impl Redis {
    /// Listens on the port of all addresses of both families.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let folder = pod.node().scene().data(&format!("redis-{}", pod.name()))?;
        let process = pod
            .spawn("redis-server")?
            .args(["--port", &port.to_string(), "--bind", "0.0.0.0", "::"])
            .args(["--protected-mode", "no", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(&folder)
            .start()?;
        let mut redis = Self { process };
        wait_for(
            Deadline::default(),
            || format!("Redis to listen on port {port} of {}", pod.name()),
            || {
                redis.process.must_run()?;
                Ok(pod.netns().listens(port)?.then_some(()))
            },
        )?;
        Ok(redis)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
