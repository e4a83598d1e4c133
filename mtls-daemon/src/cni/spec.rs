//! The Container Network Interface, versions 0.3.0 to 1.1.0: what a runtime
//! says by environment and standard input, and what it is told by standard
//! output. <https://www.cni.dev/docs/spec/>

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Pod, TYPE};

/// Those that hand a result down the chain.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a runtime wants.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) command: Command,
    /// Our entry of the chain.
    pub(super) entry: Entry,
}

#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Add(Attachment, Value),
    Check(Attachment),
    Del { container: String },
    Gc { valid: Vec<String> },
    Status,
    Version(String),
}

/// A network namespace to be made a pod's.
#[derive(Debug, PartialEq)]
pub(super) struct Attachment {
    pub(super) container: String,
    pub(super) netns: PathBuf,
    /// `None`: it is no pod's.
    pub(super) pod: Option<Pod>,
    /// What the plug-ins before have given it.
    pub(super) addresses: Vec<IpAddr>,
}

/// The plug-in's entry, as `conflist` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "type")]
    kind: String,
    pub socket: PathBuf,
    #[serde(default)]
    pub exclude: Vec<String>,
}

impl Entry {
    pub fn new(socket: &Path, exclude: &[String]) -> Self {
        Self {
            kind: TYPE.to_owned(),
            socket: socket.to_owned(),
            exclude: exclude.to_vec(),
        }
    }
}

/// Why a call fails, in the specification's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: u32,
    pub(super) msg: String,
    pub(super) details: String,
}

impl Failure {
    const ENVIRONMENT: u32 = 4;
    const READING: u32 = 5;
    const DECODING: u32 = 6;
    const CONFIGURATION: u32 = 7;
    pub(super) const TRY_AGAIN: u32 = 11;
    pub(super) const UNAVAILABLE: u32 = 50;
    /// From here on every plug-in has its own.
    pub(super) const NOT_ENROLLED: u32 = 100;

    pub(super) fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.into(),
        }
    }

    pub(super) fn reading(error: impl ToString) -> Self {
        let msg = "mtls-daemon cannot read the network configuration";
        Self::new(Self::READING, msg, error.to_string())
    }

    fn environment(name: &str) -> Self {
        let msg = format!("{name} is not set");
        let details = "mtls-daemon cni is run by container runtimes, not by hand";
        Self::new(Self::ENVIRONMENT, msg, details)
    }

    fn configuration(msg: &str, details: &str) -> Self {
        Self::new(Self::CONFIGURATION, msg, details)
    }

    pub(super) fn shown(&self, version: &str) -> Value {
        let Self { code, msg, details } = self;
        json!({"cniVersion": version, "code": code, "msg": msg, "details": details})
    }
}

pub(super) fn versions(asked: &str) -> Value {
    json!({"cniVersion": asked, "supportedVersions": VERSIONS})
}

/// The version that an answer is written in, whatever else was wrong.
pub(super) fn version(input: &str) -> String {
    let network: Value = serde_json::from_str(input).unwrap_or_default();
    let asked = network["cniVersion"].as_str();
    let known = asked.filter(|asked| VERSIONS.contains(asked));
    known.unwrap_or("1.0.0").to_owned()
}

pub(super) fn read(env: impl Fn(&str) -> Option<String>, input: &str) -> Result<Call, Failure> {
    let must = |name: &str| {
        let value = env(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| Failure::environment(name))
    };
    let command = must("CNI_COMMAND")?;
    let mut network: Value = serde_json::from_str(input).map_err(|error| {
        let msg = "the network configuration is no JSON";
        Failure::new(Failure::DECODING, msg, error.to_string())
    })?;
    if command == "VERSION" {
        let asked = network["cniVersion"].as_str().unwrap_or("1.0.0").to_owned();
        return Ok(Call {
            command: Command::Version(asked),
            entry: Entry::new(Path::new(""), &[]),
        });
    }
    let entry = serde_json::from_value(network.clone()).map_err(|error| {
        let details = format!("the daemon writes the entry by itself, with `cni.enabled`: {error}");
        Failure::configuration("this is not the entry of mtls-daemon", &details)
    })?;
    let previous = network["prevResult"].take();
    let command = match command.as_str() {
        "ADD" => {
            chained(&previous)?;
            Command::Add(attachment(&must, &env, &previous)?, previous)
        }
        "CHECK" => {
            chained(&previous)?;
            Command::Check(attachment(&must, &env, &previous)?)
        }
        "DEL" => Command::Del {
            container: must("CNI_CONTAINERID")?,
        },
        "GC" => Command::Gc {
            valid: valid(&network),
        },
        "STATUS" => Command::Status,
        other => {
            let details = "known are ADD, CHECK, DEL, GC, STATUS and VERSION";
            let msg = format!("CNI_COMMAND is {other:?}");
            return Err(Failure::new(Failure::ENVIRONMENT, msg, details));
        }
    };
    Ok(Call { command, entry })
}

/// Who comes first has no addresses to hand down.
fn chained(previous: &Value) -> Result<(), Failure> {
    match previous {
        Value::Object(_) => Ok(()),
        _ => Err(Failure::configuration(
            "there is no prevResult",
            "mtls-daemon makes no network of its own: its entry stands behind the plug-in that does",
        )),
    }
}

fn attachment(
    must: &impl Fn(&str) -> Result<String, Failure>,
    env: &impl Fn(&str) -> Option<String>,
    previous: &Value,
) -> Result<Attachment, Failure> {
    Ok(Attachment {
        container: must("CNI_CONTAINERID")?,
        netns: must("CNI_NETNS")?.into(),
        pod: pod(&env("CNI_ARGS").unwrap_or_default())?,
        addresses: addresses(previous),
    })
}

/// `KEY=VALUE;KEY=VALUE`
fn pod(arguments: &str) -> Result<Option<Pod>, Failure> {
    let value = |name: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned())
    };
    let names = ["NAMESPACE", "NAME", "UID"].map(|name| value(&format!("K8S_POD_{name}")));
    match names {
        [Some(namespace), Some(name), Some(uid)] => Ok(Some(Pod {
            namespace,
            name,
            uid,
        })),
        [None, None, None] => Ok(None),
        _ => Err(Failure::new(
            Failure::ENVIRONMENT,
            "CNI_ARGS does not say which pod this is",
            "it must have K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID, as containerd from 1.4 and CRI-O from 1.20 on give them",
        )),
    }
}

/// Without their prefixes' lengths. What cannot be read is somebody else's.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let all = result["ips"].as_array().into_iter().flatten();
    all.filter_map(|ip| {
        let address = ip["address"].as_str()?;
        address.split('/').next()?.parse().ok()
    })
    .collect()
}

fn valid(network: &Value) -> Vec<String> {
    let all = network["cni.dev/valid-attachments"].as_array();
    let containers = all.into_iter().flatten();
    containers
        .filter_map(|it| it["containerID"].as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;\
                        K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1";

    fn call(command: &str, args: &str, more: Value) -> Result<Call, Failure> {
        let mut network = json!({
            "cniVersion": "1.1.0", "name": "node", "type": TYPE,
            "socket": "/run/mtls-daemon/cni.sock", "exclude": ["kube-system"],
        });
        if let (Value::Object(network), Value::Object(mut more)) = (&mut network, more) {
            network.append(&mut more);
        }
        let env = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/run/netns/x",
                "CNI_ARGS" => args,
                _ => return None,
            };
            Some(value.to_owned())
        };
        read(env, &network.to_string())
    }

    fn result() -> Value {
        json!({
            "cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}], "dns": {"search": ["x"]},
            "ips": [{"address": "10.0.1.4/24", "gateway": "10.0.1.1"}, {"address": "fd00::4/64"}],
        })
    }

    #[test]
    fn a_pod_is_known_by_what_its_kubelet_calls_it() {
        let called = call("ADD", ARGS, json!({"prevResult": result()})).unwrap();
        let Command::Add(attachment, previous) = called.command else {
            panic!("{called:?}");
        };
        let pod = attachment.pod.unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("shop", "web-1")
        );
        assert_eq!(pod.uid, "u1");
        let addresses: Vec<IpAddr> = ["10.0.1.4", "fd00::4"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(attachment.addresses, addresses);
        assert_eq!(previous, result(), "handed down as it came");
        assert_eq!(called.entry.exclude, ["kube-system"]);
    }

    #[test]
    fn what_is_no_pod_is_nobodys_business_and_half_a_pod_is_refused() {
        let with_result = || json!({"prevResult": result()});
        let called = call("ADD", "IgnoreUnknown=1", with_result()).unwrap();
        assert!(matches!(called.command, Command::Add(it, _) if it.pod.is_none()));
        let half = call(
            "ADD",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
            with_result(),
        );
        assert_eq!(half.unwrap_err().code, Failure::ENVIRONMENT);
    }

    #[test]
    fn what_a_runtime_gets_wrong_has_the_specifications_number() {
        let code = |command, more| call(command, ARGS, more).unwrap_err().code;
        assert_eq!(code("ADD", json!({})), Failure::CONFIGURATION);
        assert_eq!(code("CHECK", json!({})), Failure::CONFIGURATION);
        assert_eq!(code("RENEW", json!({})), Failure::ENVIRONMENT);
        assert_eq!(code("", json!({})), Failure::ENVIRONMENT);
        assert_eq!(code("STATUS", json!({"socket": 1})), Failure::CONFIGURATION);
        let garbled = read(|_| Some("ADD".to_owned()), "{").unwrap_err();
        assert_eq!(garbled.code, Failure::DECODING);
    }

    #[test]
    fn what_has_ended_needs_neither_result_nor_pod() {
        let ended = call("DEL", "", json!({})).unwrap().command;
        assert_eq!(
            ended,
            Command::Del {
                container: "c1".to_owned()
            }
        );
        let more = json!({"cni.dev/valid-attachments": [
            {"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"},
        ]});
        let gc = call("GC", "", more).unwrap().command;
        assert_eq!(
            gc,
            Command::Gc {
                valid: vec!["c1".to_owned(), "c2".to_owned()]
            }
        );
    }

    #[test]
    fn an_answer_is_in_the_version_that_was_asked_in() {
        assert_eq!(version(r#"{"cniVersion": "0.4.0"}"#), "0.4.0");
        assert_eq!(version(r#"{"cniVersion": "0.1.0"}"#), "1.0.0");
        assert_eq!(version("{"), "1.0.0");
        assert_eq!(versions("0.4.0")["cniVersion"], "0.4.0");
    }
}
