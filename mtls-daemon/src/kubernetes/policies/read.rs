//! From an AuthorizationPolicy as it is written to what can be judged of it.
//!
//! Whatever cannot be judged here never lets anybody in: a rule that allows
//! with it never matches, and one that denies matches by what is left, as
//! Istio's ztunnel has it. An object of which not even that can be said denies
//! everything to whom it selects.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules::{Lost, Reader};
use super::{Object, Reading};
use crate::config::{Action, Rule, Written};

/// What an object says.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) selects: Selects,
    pub(super) effect: Option<Effect>,
    pub(super) standing: Standing,
    /// What of it is not judged as it is written, and what comes of that.
    pub(super) complaints: Vec<String>,
}

/// What it does with connections to those that it selects.
#[derive(Debug, PartialEq)]
pub(super) struct Effect {
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) rules: Vec<Rule>,
}

/// Whose callers an object speaks of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selects {
    /// Pods with all of these labels.
    Labels(Vec<(String, String)>),
    /// Those that stand behind one of these Services of its namespace.
    Services(Vec<String>),
}

/// How much of an object is judged as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Whole,
    /// Some of it is not judged as it is written, and lets nobody in by that.
    InPart,
    /// It is for others than this daemon.
    PassedOver,
    /// It denies every connection to whom it selects, or makes them strict.
    Unreadable,
}

impl Standing {
    pub const ALL: [Self; 4] = [
        Self::Whole,
        Self::InPart,
        Self::PassedOver,
        Self::Unreadable,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::InPart => "in_part",
            Self::PassedOver => "passed_over",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What a policy does, as far as it concerns this daemon.
enum Asks {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Whom it is attached to.
enum Attached {
    To(Selects),
    /// Those judge for themselves.
    ToGateways,
}

/// Why an object cannot be read.
pub(super) struct Unreadable(pub(super) String);

/// What Istio takes for yes and for no.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

pub(super) fn read(object: &Object, reading: &Reading) -> Said {
    let spec = &spec(object);
    let mut complaints = Vec::new();
    let dry_run = dry_run(object.dry_run.as_deref(), &mut complaints);
    let (selects, mixed) = match attached(spec) {
        Ok((Attached::To(selects), mixed)) => (selects, mixed),
        Ok((Attached::ToGateways, _)) => {
            let why = "it is attached to gateways, which judge for themselves";
            return passed_over(all(), why);
        }
        // Whom it protects is not certain: everybody whom it could.
        Err(why) => return unreadable(object, all(), dry_run, why),
    };
    if let Some(why) = mixed {
        complaints.push(why);
    }
    let action = match asks(spec) {
        Ok(Asks::Audit) => return passed_over(selects, "AUDIT: nobody audits here"),
        Ok(Asks::Allow) => Action::Allow,
        Ok(Asks::Deny) => Action::Deny,
        Ok(Asks::Custom) => {
            complaints.push(
                "CUSTOM: there is no external authoriser to ask, so what its rules match is denied"
                    .to_owned(),
            );
            Action::Deny
        }
        Err(why) => return unreadable(object, selects, dry_run, why),
    };
    let mut reader = Reader::new(object, reading, action);
    let rules = match spec.get("rules").map(Value::as_array) {
        None => Vec::new(),
        Some(Some(rules)) => reader.rules(rules),
        Some(None) => {
            let why = Unreadable("rules is no list".to_owned());
            return unreadable(object, selects, dry_run, why);
        }
    };
    complaints.extend(reader.lost.iter().map(|lost| told(lost, action)));
    Said {
        standing: match complaints.is_empty() {
            true => Standing::Whole,
            false => Standing::InPart,
        },
        selects,
        effect: Some(Effect {
            action,
            dry_run,
            rules,
        }),
        complaints,
    }
}

pub(super) fn spec(object: &Object) -> Map<String, Value> {
    match serde_json::from_str(&object.spec) {
        Ok(Value::Object(spec)) => spec,
        _ => Map::new(),
    }
}

fn told(Lost { place, why }: &Lost, action: Action) -> String {
    let then = match action {
        Action::Allow => "its rule never matches",
        Action::Deny => "its rule matches as if this were not there",
    };
    format!("{place} {why}: {then}")
}

fn passed_over(selects: Selects, why: &str) -> Said {
    Said {
        selects,
        effect: None,
        standing: Standing::PassedOver,
        complaints: vec![why.to_owned()],
    }
}

fn unreadable(
    object: &Object,
    selects: Selects,
    dry_run: bool,
    Unreadable(why): Unreadable,
) -> Said {
    let every = Rule {
        label: format!("{object}[unreadable]").into(),
        from: Vec::new(),
        to: Vec::new(),
        when: Vec::new(),
        written: written(object),
    };
    Said {
        selects,
        effect: Some(Effect {
            action: Action::Deny,
            dry_run,
            rules: vec![every],
        }),
        standing: Standing::Unreadable,
        complaints: vec![format!("{why}: every connection to its pods is denied")],
    }
}

pub(super) fn written(object: &Object) -> Written {
    Written::Object(Arc::from(format!("AuthorizationPolicy {object}")))
}

fn all() -> Selects {
    Selects::Labels(Vec::new())
}

/// What is neither yes nor no is in force.
fn dry_run(said: Option<&str>, complaints: &mut Vec<String>) -> bool {
    match said {
        Some(word) if TRUE.contains(&word) => true,
        Some(word) if !FALSE.contains(&word) => {
            complaints.push(format!(
                "istio.io/dry-run: {word:?} is neither true nor false, so it is no dry run"
            ));
            false
        }
        _ => false,
    }
}

fn asks(spec: &Map<String, Value>) -> Result<Asks, Unreadable> {
    const KNOWN: [&str; 6] = [
        "action",
        "provider",
        "rules",
        "selector",
        "targetRef",
        "targetRefs",
    ];
    if let Some(other) = spec.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(Unreadable(format!("{other} is not known")));
    }
    let asks = match spec.get("action").map(Value::as_str) {
        None | Some(Some("ALLOW")) => Asks::Allow,
        Some(Some("DENY")) => Asks::Deny,
        Some(Some("AUDIT")) => Asks::Audit,
        Some(Some("CUSTOM")) => Asks::Custom,
        Some(_) => return Err(Unreadable("action is no action".to_owned())),
    };
    match asks {
        Asks::Allow | Asks::Deny if spec.contains_key("provider") => Err(Unreadable(
            "provider belongs to the action CUSTOM".to_owned(),
        )),
        _ => Ok(asks),
    }
}

/// And what is to be said of targets that are passed over beside others.
fn attached(spec: &Map<String, Value>) -> Result<(Attached, Option<String>), Unreadable> {
    let refs = spec.get("targetRef").into_iter().map(std::slice::from_ref);
    let refs = match spec.get("targetRefs").map(Value::as_array) {
        None => refs.collect::<Vec<_>>().concat(),
        Some(Some(list)) if !list.is_empty() && !spec.contains_key("targetRef") => list.clone(),
        Some(_) => return Err(Unreadable("targetRefs cannot be read".to_owned())),
    };
    match (spec.get("selector"), refs.as_slice()) {
        (None, []) => Ok((Attached::To(all()), None)),
        (Some(selector), []) => Ok((Attached::To(Selects::Labels(labels(selector)?)), None)),
        (None, refs) => targets(refs),
        (Some(_), [_, ..]) => Err(Unreadable(
            "selector and targetRefs do not go together".to_owned(),
        )),
    }
}

pub(super) fn labels(selector: &Value) -> Result<Vec<(String, String)>, Unreadable> {
    let unreadable = || Unreadable("selector cannot be read".to_owned());
    let selector = selector.as_object().ok_or_else(unreadable)?;
    if selector.keys().any(|key| key != "matchLabels") {
        return Err(unreadable());
    }
    let Some(labels) = selector.get("matchLabels") else {
        return Ok(Vec::new());
    };
    let labels = labels.as_object().ok_or_else(unreadable)?;
    let labels = labels.iter().map(|(key, value)| {
        let value = value.as_str().filter(|value| !value.contains('*'));
        Some((key.clone(), value?.to_owned()))
    });
    labels.collect::<Option<_>>().ok_or_else(unreadable)
}

fn targets(refs: &[Value]) -> Result<(Attached, Option<String>), Unreadable> {
    let mut services = Vec::new();
    for target in refs {
        let word = |key| target.get(key).and_then(Value::as_str).unwrap_or_default();
        match (word("group"), word("kind"), word("name")) {
            ("" | "core", "Service", name) if !name.is_empty() && word("namespace").is_empty() => {
                services.push(name.to_owned());
            }
            ("gateway.networking.k8s.io", "Gateway" | "GatewayClass", _)
            | ("networking.istio.io", "ServiceEntry", _) => {}
            (_, kind, _) => {
                return Err(Unreadable(format!("targetRefs: {kind:?} is not known")));
            }
        }
    }
    let passed_over = refs.len() - services.len();
    if services.is_empty() {
        return Ok((Attached::ToGateways, None));
    }
    let mixed = (passed_over > 0)
        .then(|| "targetRefs: gateways among them judge for themselves".to_owned());
    Ok((Attached::To(Selects::Services(services)), mixed))
}
