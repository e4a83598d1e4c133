//! Starting other programs, with their names in what goes wrong.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::failure::{Failure, Result, While};
use crate::places;

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(places::repository());
    cargo
}

/// Runs it with our own output; anything but exit code 0 is a failure.
pub(crate) fn run(command: &mut Command) -> Result {
    let name = name(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .doing(format_args!("starting {name}"))?;
    ended(&name, status)
}

/// The same, and `hear` gets each line of its standard output, too.
pub(crate) fn run_heard(command: &mut Command, mut hear: impl FnMut(&str)) -> Result {
    let name = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .doing(format_args!("starting {name}"))?;
    let mut line = Vec::new();
    if let Some(mut said) = child.stdout.take().map(BufReader::new) {
        let mut ours = std::io::stdout();
        while said.read_until(b'\n', &mut line).doing(&name)? > 0 {
            ours.write_all(&line)
                .and_then(|()| ours.flush())
                .doing("writing to our own output")?;
            hear(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    ended(&name, child.wait().doing(&name)?)
}

fn ended(name: &str, status: ExitStatus) -> Result {
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("{name} failed: {status}")))
    }
}

/// Runs it and keeps its output for the failure's message alone.
pub(crate) fn run_quietly(command: &mut Command) -> Result {
    output(command).map(drop)
}

/// Its standard output, as text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .doing(format_args!("starting {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Failure::new(format!(
        "{name} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&said).trim_end()
    )))
}

/// The program's path if it is installed; also looks where PATH of an ordinary
/// user does not, since daemons live there.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    folders
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .take(4);
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
