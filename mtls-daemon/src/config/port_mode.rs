//! One port of a workload with a mode of its own.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;

use super::Mode;
use super::keys::{MODES, Shape};
use super::mistakes::Complaint;
use super::value::{Value, kind};

/// What comes in at one port of a workload. Off: plain text alone, past the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMode {
    pub port: u16,
    pub mode: Mode,
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, mode } = self;
        write!(f, "{{ port = {port}, mode = \"{mode}\" }}")
    }
}

impl Value for PortMode {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        const REMEDY: &str = "write { port = 8080, mode = \"permissive\" }";
        let Some(table) = value.get_ref().as_table() else {
            let what = format!("expected a port with its mode, found {}", kind(value));
            wrong.push(Complaint::new(value.span(), what, REMEDY));
            return None;
        };
        let (mut port, mut mode, mut good) = (None, None, true);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "port" => {
                    port = u16::read(value, &Shape::Port, wrong);
                    good &= port.is_some();
                }
                "mode" => {
                    mode = Mode::read(value, &MODES, wrong);
                    good &= mode.is_some();
                }
                unknown => {
                    let what = format!("a port's mode has no key {unknown:?}");
                    wrong.push(Complaint::new(key.span(), what, REMEDY));
                    good = false;
                }
            }
        }
        match (port, mode) {
            (Some(port), Some(mode)) if good => Some(Self { port, mode }),
            _ => {
                if good {
                    let what = "the port or its mode is missing";
                    wrong.push(Complaint::new(value.span(), what, REMEDY));
                }
                None
            }
        }
    }
}
