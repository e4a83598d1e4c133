//! The grammar of the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{DEFAULT_PATH, parse_duration};
use crate::spiffe::SpiffeId;

const EXIT: &str = "\
Exit status:
  0  done; with status: the node is ready and healthy
  1  it failed, or there are mistakes, or the node is not ready or not healthy
  2  the command line is wrong
  3  no daemon answers
  4  it was not done in the time given";

/// Mutual TLS for every TCP connection of this node's workloads.
#[derive(Debug, Parser)]
#[command(name = "mtls-daemon", version, after_help = EXIT, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon until SIGTERM; SIGHUP reads the configuration again.
    ///
    /// What it attaches to the kernel stays when it ends, and refuses the
    /// workloads' connections until it runs again.
    Run {
        #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Report every mistake in a configuration file.
    CheckConfig { file: PathBuf },
    /// Say what the node and its cluster lack, and ask every workload's source
    /// for its certificate, once.
    ///
    /// Needs no running daemon, and enrols nothing. An authority that signs on
    /// demand signs a certificate for each workload, which is thrown away.
    Check(Check),
    /// Show configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the node: workloads, certificates, hooks, threads, what is wrong.
    Status(Ask),
    /// List the workloads: enrolled or not, why, as whom, and since when.
    ///
    /// Exit status 1 if one that is to be enrolled is not.
    Workloads(Ask),
    /// Show the workloads' certificates, the roots and the revocation lists.
    Certificates(Ask),
    /// List the connections that the daemon carries now.
    Connections(Connections),
    /// Say which workloads would lose whom if they turned strict.
    ///
    /// From what permissive workloads said and heard in clear within a day.
    /// Exit status 1 if one would lose somebody, or nobody could know.
    ReadinessForStrict(Ask),
    /// Ask the policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Enrol a workload of this node.
    ///
    /// It is one of the configuration, found by where it is, or a new one that
    /// lives until the daemon is started again (give --spiffe-id then).
    Enrol(Enrol),
    /// Take all enforcement away: connections travel in clear from then on.
    ///
    /// Removes every pinned program and map. Stop the daemon first. Removing
    /// the folder of the pins by hand does the same.
    Detach(Detach),
    /// Have every daemon of a DaemonSet detach for good, and wait until they have.
    ///
    /// Annotates the DaemonSet, and names each node as its daemon reports. It
    /// is what the chart does before it is uninstalled. Exit status 4 if nodes
    /// are missing at the end of the time; they are named.
    Uninstall(Uninstall),
    /// Refuse whatever begins in a network namespace of its own, from now on and
    /// until a daemon knows it: for the boot of a node.
    ///
    /// Attaches and pins what the daemon takes over when it starts. What is
    /// attached already stays as it is.
    Gate(Gate),
    /// Mount a bpffs in a folder, unless there is one.
    ///
    /// What is pinned there lives as long as the mount does: on a node, have
    /// the node's own system do it, or a container whose mounts reach the node.
    MountBpffs {
        #[arg(default_value = "/sys/fs/bpf")]
        folder: PathBuf,
    },
    /// Be the network plug-in of a container runtime, which asks by environment
    /// and standard input.
    ///
    /// Runtimes run the copy that the daemon puts among their plug-ins, without
    /// a word on the command line. See `cni.enabled`.
    Cni,
    /// Say what a reason code means and what to do; without one, list them.
    Explain(Explain),
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a configuration with every default filled in.
    Show {
        /// With every key, whether the file has it or not.
        #[arg(long, required = true)]
        effective: bool,
        #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Print a file with every key, its default and its meaning, to start from.
    Example,
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say whether a connection would be let in, rule by rule.
    ///
    /// Asks the running daemon, or with --config what a configuration and its
    /// folder of policies would say. Exit status 1 if it would be refused.
    Test(PolicyTest),
}

#[derive(Args, Debug)]
pub(super) struct PolicyTest {
    /// The caller's SPIFFE ID; without it, a caller that has proved none.
    #[arg(long, value_name = "ID")]
    pub(super) from: Option<SpiffeId>,
    /// The workload and its port, such as db:5432, shop/db-0:5432 or
    /// spiffe://example.org/db:5432.
    #[arg(long, value_name = "WORKLOAD:PORT", value_parser = to)]
    pub(super) to: To,
    /// The caller's address; by default where the directory knows it.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) ip: Option<IpAddr>,
    /// Judge by this configuration; no daemon is asked.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The daemon's admin socket; by default the one of its configuration.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub(super) socket: Option<PathBuf>,
    #[arg(long, short, value_enum, default_value = "human")]
    pub(super) output: Output,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct To {
    pub(super) workload: String,
    pub(super) port: u16,
}

/// Which daemon is asked.
#[derive(Args, Debug)]
pub(super) struct Socket {
    /// The daemon's admin socket; by default the one of its configuration.
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// The daemon's configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Human,
    /// With a schema version; times are RFC 3339, UTC.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) socket: Socket,
    #[arg(long, short, value_enum, default_value = "human")]
    pub(super) output: Output,
}

#[derive(Args, Debug)]
pub(super) struct Connections {
    #[command(flatten)]
    pub(super) ask: Ask,
    /// Only those of this workload, in the human table.
    #[arg(long, value_name = "NAME")]
    pub(super) workload: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Enrol {
    #[command(flatten)]
    pub(super) ask: Ask,
    #[command(flatten)]
    pub(super) place: Place,
    /// Return when hooks, listeners and the first certificate are in place, or
    /// the workload has failed. Waits for the daemon, too.
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait, such as 30s or 2m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(super) timeout: Duration,
    /// The workload's name; by default the configured one, or the path of the SPIFFE ID.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// The identity of a workload that is not configured.
    #[arg(long, value_name = "ID")]
    pub(super) spiffe_id: Option<SpiffeId>,
    /// Its addresses; by default all global ones in its network namespace.
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(super) addresses: Vec<IpAddr>,
}

/// Where the workload is.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Place {
    /// The file that names its network namespace.
    #[arg(long, value_name = "PATH")]
    pub(super) netns: Option<PathBuf>,
    /// Its cgroup2 folder.
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<PathBuf>,
    /// Its systemd unit.
    #[arg(long, value_name = "NAME")]
    pub(super) unit: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Detach {
    /// The folder of the pins; by default the one of the configuration.
    #[arg(long, value_name = "FOLDER")]
    pub(super) pins: Option<PathBuf>,
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct Uninstall {
    #[arg(long, value_name = "NAME")]
    pub(super) daemonset: String,
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: String,
    /// How long to wait for the daemons, such as 2m.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    pub(super) timeout: Duration,
    /// How to log in; by default as the service account of the pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Check {
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// Look at the cluster alone, from anywhere, as somebody who may see more
    /// than the daemon: NetworkPolicies, webhooks, aggregated APIs. Neither its
    /// own rights are judged, nor a node, nor sources of certificates.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Gate {
    /// The daemon's configuration; by default its usual file, if there is one.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The cgroup to attach at; by default the one of the configuration, or the
    /// root of the cgroup2 tree.
    #[arg(long, value_name = "FOLDER")]
    pub(super) cgroup: Option<PathBuf>,
    /// The folder of the pins; by default the one of the configuration.
    #[arg(long, value_name = "FOLDER")]
    pub(super) pins: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Explain {
    pub(super) word: Option<String>,
}

fn to(text: &str) -> Result<To, String> {
    let parts = text.rsplit_once(':');
    let read = parts.and_then(|(workload, port)| {
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let workload = workload.to_owned();
        (!workload.is_empty()).then_some(To { workload, port })
    });
    read.ok_or_else(|| "write a workload, a colon and a port, such as db:5432".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(time) if time <= Duration::from_secs(3600) => Ok(time),
        Some(_) => Err("at most 1h".to_owned()),
        None => Err("write a number and ms, s, m or h, such as 30s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("mtls-daemon").chain(line.split(' '));
        Arguments::try_parse_from(words)
            .map(|arguments| arguments.command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_grammar_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_workload_to_enrol_is_in_exactly_one_place() {
        assert!(parse("enrol --wait --unit web.service --timeout 2m").is_ok());
        assert!(parse("enrol --wait").unwrap_err().contains("--netns"));
        assert!(parse("enrol --unit a.service --netns /n").is_err());
        assert!(
            parse("enrol --unit a.service --timeout soon")
                .unwrap_err()
                .contains("30s")
        );
        assert!(parse("enrol --unit a.service --spiffe-id web").is_err());
    }

    #[test]
    fn the_units_of_deploy_call_us_rightly() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd");
        let mut calls = 0;
        for unit in [
            "mtls-daemon.service",
            "mtls-daemon-gate.service",
            "example-workload.service",
        ] {
            let text = std::fs::read_to_string(format!("{folder}/{unit}")).unwrap();
            for line in text.lines().filter(|line| line.starts_with("Exec")) {
                let (_, call) = line.split_once('=').unwrap();
                if let Some(words) = call
                    .trim_start_matches('+')
                    .strip_prefix("/usr/bin/mtls-daemon ")
                {
                    parse(words).unwrap();
                    calls += 1;
                }
            }
        }
        assert_eq!(calls, 4);
    }

    #[test]
    fn the_charts_hook_calls_us_rightly() {
        let hook = include_str!("../../../deploy/chart/templates/uninstall.yaml");
        let (_, args) = hook.split_once("args: [").unwrap();
        let (args, _) = args.split_once(']').unwrap();
        let words: Vec<&str> = args.split(',').map(str::trim).collect();
        let words = words.into_iter().map(|word| match word {
            "{{ .Release.Name }}" | "{{ .Release.Namespace }}" => "mesh",
            "{{ .Values.uninstall.timeout | quote }}" => "120s",
            word => word,
        });
        let Command::Uninstall(asked) = parse(&words.collect::<Vec<_>>().join(" ")).unwrap() else {
            panic!("another command: {args}")
        };
        assert_eq!(asked.timeout, Duration::from_secs(120));
    }

    #[test]
    fn only_the_effective_configuration_is_shown() {
        assert!(parse("config show --effective --config /c.toml").is_ok());
        assert!(parse("config show").is_err());
    }
}
