//! What the person sees: one line a fact, in colour on a terminal, and as
//! plain text everywhere else.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};

use mtls_tests::Result;
use mtls_tests::deadline::Stopwatch;

pub(crate) struct Screen {
    is_terminal: bool,
    colour: bool,
    started: Stopwatch,
}

const BOLD: &str = "1";
const GREEN: &str = "1;32";
const RED: &str = "1;31";
const DIM: &str = "2";

/// Room for what is being measured, before what was found.
const TITLE_WIDTH: usize = 44;

impl Screen {
    pub(crate) fn new() -> Self {
        let is_terminal = stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            is_terminal,
            colour: is_terminal && !dumb && !set("NO_COLOR"),
            started: Stopwatch::start(),
        }
    }

    /// Does something that takes a moment, shows that it is being done, and
    /// then what it found.
    pub(crate) fn fact(&mut self, title: &str, measure: impl FnOnce() -> Result<String>) -> Result {
        if self.is_terminal {
            print!("{} {title} ..", self.paint(DIM, "  .."));
            let _ = stdout().flush();
        }
        let found = measure();
        if self.is_terminal {
            print!("\r\x1b[K");
        }
        match found {
            Ok(found) => {
                println!(
                    "{}  {title:<TITLE_WIDTH$}{found}",
                    self.paint(GREEN, "  ok")
                );
                Ok(())
            }
            Err(error) => {
                println!("{}  {title}", self.paint(RED, "FAIL"));
                Err(error)
            }
        }
    }

    pub(crate) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    pub(crate) fn say(&self, text: impl Display) {
        println!("{text}");
    }

    pub(crate) fn done(&self) {
        let seconds = self.started.elapsed().as_secs_f32();
        println!(
            "\n{} ({seconds:.0} s)",
            self.paint(GREEN, "every fact held")
        );
    }

    pub(crate) fn failed(&self, why: &str) {
        println!("\n{} {why}", self.paint(RED, "failed:"));
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// 3.2 MiB
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let mut rest = count;
    let mut scale = 1_u64;
    while rest >= 1024 && unit + 1 < UNITS.len() {
        rest /= 1024;
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} bytes");
    }
    let tenths = count * 10 / scale;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(10 << 30), "10.0 GiB");
    }
}
