//! End-to-end stories: real kernel programs, real daemons, real applications.
//! One binary, so that one process owns what the stories make; one story a
//! file, and each can be read alone.

mod harness_leaves_nothing;
mod harness_runs_applications;
mod harness_sees_plain_text;
