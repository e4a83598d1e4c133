//! A request whose end is said later, on one connection of a pod's.

use std::time::Duration;

use crate::deadline::{Deadline, wait_for};
use crate::error::{Result, ensure};
use crate::process::Process;

use super::ControlPlane;

/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);
/// Who asks.
const CLIENT: [&str; 5] = ["exec", "-n", "shop", "deploy/client", "--"];

pub struct HalfSaid(Process);

impl HalfSaid {
    /// To a web server's port 8080. One at a time.
    pub fn start(plane: &ControlPlane, address: &str) -> Result<Self> {
        let ask = format!(
            "rm -f /tmp/go; (printf 'GET / HTTP/1.0\\r\\n'; echo > /tmp/begun; \
              until test -f /tmp/go; do sleep 0.1; done; printf '\\r\\n'; sleep 1) | nc {address} 8080"
        );
        let asking = plane.start_kubectl(&[&CLIENT[..], &["sh", "-c", &ask]].concat())?;
        wait_for(
            Deadline::after(POD),
            || "the request to be begun",
            || {
                let begun = [&CLIENT[..], &["test", "-f", "/tmp/begun"]].concat();
                Ok(plane.kubectl(&begun).ok())
            },
        )?;
        Ok(Self(asking))
    }

    /// Says the rest; fails unless that has its answer.
    pub fn finish(mut self, plane: &ControlPlane, answer: &str) -> Result {
        let go = ["sh", "-c", "echo > /tmp/go"];
        plane.kubectl(&[&CLIENT[..], &go].concat())?;
        let ended = self.0.wait(Deadline::after(POD))?;
        let said = self.0.log();
        ensure(ended.success() && said.contains(answer), || {
            format!("the open connection ended with {ended}: {said}")
        })
    }
}
