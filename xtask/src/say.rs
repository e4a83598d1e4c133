//! Lines for the person at the terminal, in the shape of cargo's own, on
//! standard error as cargo's are.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Colour on a terminal, unless NO_COLOR says otherwise (no-color.org).
static COLOUR: LazyLock<bool> = LazyLock::new(|| {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
});

const GREEN: &str = "1;32";
const RED: &str = "1;31";

/// Something is being done, or was: `Installing nginx-light`.
pub(crate) fn step(verb: &str, what: &str) {
    eprintln!("{} {what}", paint(GREEN, &format!("{verb:>12}")));
}

pub(crate) fn error(what: &str) {
    eprintln!("{}: {what}", paint(RED, "error"));
}

fn paint(style: &str, text: &str) -> String {
    if *COLOUR {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Real time that passed since it was made.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "xtask has no runtime whose clock a test could pause"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
