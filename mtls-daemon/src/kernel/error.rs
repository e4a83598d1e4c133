//! What can fail between the daemon and the kernel, and what to do about it.

use thiserror::Error;

#[derive(Debug, Error)]
pub enum KernelError {
    #[error("the kernel side is not part of this build yet")]
    NotWired,
}
