//! PeerAuthentications: the modes that they give to pods, in Istio's order.
//!
//! On each level the oldest counts, whatever it says. One that cannot be read
//! means strict, to all whom it could select, and goes before older ones.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::read::{Standing, Unreadable, labels, spec};
use super::{Candidate, Kind, Note, Object, Reading};
use crate::config::{Mode, PortMode};

/// What objects say of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Authentication {
    /// By the pod's labels.
    selecting: Option<Taken>,
    of_namespace: Option<Taken>,
    mesh_wide: Option<Taken>,
}

/// A mode, and whose word it is.
pub(in super::super) type Word = (Mode, Arc<str>);

/// The one object that speaks of a pod on its level.
#[derive(Clone, Debug, PartialEq)]
struct Taken {
    /// KIND NAMESPACE/NAME
    name: Arc<str>,
    /// `None`: as without it.
    mode: Option<Mode>,
    ports: Arc<[PortMode]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Selecting,
    Namespace,
    Mesh,
}

/// What an object says.
struct Said {
    /// `None`: nobody heeds it.
    level: Option<Level>,
    labels: Vec<(String, String)>,
    mode: Option<Mode>,
    ports: Vec<PortMode>,
    standing: Standing,
    complaints: Vec<String>,
}

impl Authentication {
    /// Of the pod by its labels, and whose word that is.
    pub(in super::super) fn selecting(&self) -> Option<Word> {
        word(self.selecting.as_ref())
    }

    pub(in super::super) fn of_namespace(&self) -> Option<Word> {
        word(self.of_namespace.as_ref())
    }

    pub(in super::super) fn mesh_wide(&self) -> Option<Word> {
        word(self.mesh_wide.as_ref())
    }

    pub(in super::super) fn ports(&self) -> &[PortMode] {
        self.selecting.as_ref().map_or(&[], |taken| &taken.ports)
    }

    fn at(&mut self, level: Level) -> &mut Option<Taken> {
        match level {
            Level::Selecting => &mut self.selecting,
            Level::Namespace => &mut self.of_namespace,
            Level::Mesh => &mut self.mesh_wide,
        }
    }
}

fn word(taken: Option<&Taken>) -> Option<Word> {
    let taken = taken?;
    Some((taken.mode?, Arc::clone(&taken.name)))
}

/// What `objects` say of `pods`, by NAMESPACE/POD. `version` is the API's.
pub(in super::super) fn resolve<'a>(
    objects: impl Iterator<Item = &'a Object>,
    pods: &[Candidate<'_>],
    reading: &Reading,
    version: &str,
) -> (HashMap<String, Authentication>, Vec<Note>) {
    let mut objects: Vec<_> = objects.map(|it| (it, read(it, reading))).collect();
    objects.sort_by(|(a, of_a), (b, of_b)| {
        let can_be_read = |said: &Said| said.standing != Standing::Unreadable;
        let (of_a, of_b) = (can_be_read(of_a), can_be_read(of_b));
        // The API server counts seconds: names decide within one.
        (of_a, a.created, &a.name).cmp(&(of_b, b.created, &b.name))
    });
    let mut of_pods: HashMap<String, Authentication> = HashMap::new();
    let mut notes = Vec::new();
    for (object, said) in objects {
        let selected: Vec<String> = (pods.iter())
            .filter(|pod| pod.is_selected(object, &said.labels, reading))
            .map(Candidate::full_name)
            .collect();
        if selected.is_empty() {
            continue;
        }
        let others = said.level.map_or_else(Vec::new, |level| {
            take(&said, level, object, &selected, &mut of_pods)
        });
        notes.push(note(object, said, selected.len(), &others, version));
    }
    (of_pods, notes)
}

/// Returns what speaks of pods in its stead, once for each.
fn take(
    said: &Said,
    level: Level,
    object: &Object,
    selected: &[String],
    of_pods: &mut HashMap<String, Authentication>,
) -> Vec<Arc<str>> {
    let taken = Taken {
        name: format!("{} {object}", Kind::PeerAuthentication.word()).into(),
        mode: said.mode,
        ports: said.ports.clone().into(),
    };
    let others = selected.iter().filter_map(|pod| {
        let place = of_pods.entry(pod.clone()).or_default().at(level);
        match place {
            Some(other) => Some(Arc::clone(&other.name)),
            None => {
                *place = Some(taken.clone());
                None
            }
        }
    });
    others.collect()
}

fn note(object: &Object, said: Said, pods: usize, others: &[Arc<str>], version: &str) -> Note {
    let Said {
        mut standing,
        mut complaints,
        ..
    } = said;
    if let Some(other) = others.first() {
        let (how, whom) = match others.len() == pods {
            true => (Standing::PassedOver, "its pods"),
            false => (Standing::InPart, "some of its pods"),
        };
        complaints.push(format!(
            "of {whom} {other} speaks already: of several the oldest counts"
        ));
        if standing != Standing::Unreadable {
            standing = how;
        }
    }
    Note {
        kind: Kind::PeerAuthentication,
        name: object.to_string(),
        standing,
        complaints,
        object: object.reference(Kind::PeerAuthentication, version),
    }
}

fn read(object: &Object, reading: &Reading) -> Said {
    let spec = spec(object);
    let in_root = object.namespace == reading.root_namespace;
    let labels = spec.get("selector").map_or_else(|| Ok(Vec::new()), labels);
    let labels = match labels {
        Ok(labels) => labels,
        Err(why) => return unreadable(Level::Selecting, Vec::new(), why),
    };
    let level = match (labels.is_empty(), in_root) {
        (true, true) => Level::Mesh,
        (true, false) => Level::Namespace,
        (false, false) => Level::Selecting,
        (false, true) => return of_root_with_selector(labels),
    };
    let mut complaints = Vec::new();
    match modes(&spec, level, &mut complaints) {
        Ok((mode, ports)) => Said {
            level: Some(level),
            labels,
            mode,
            ports,
            standing: match complaints.is_empty() {
                true => Standing::Whole,
                false => Standing::InPart,
            },
            complaints,
        },
        Err(why) => unreadable(level, labels, why),
    }
}

/// Istio heeds none of them.
fn of_root_with_selector(labels: Vec<(String, String)>) -> Said {
    let why = "in the root namespace one with a selector speaks of nobody: write it in the namespace of its pods";
    Said {
        level: None,
        labels,
        mode: None,
        ports: Vec::new(),
        standing: Standing::PassedOver,
        complaints: vec![why.to_owned()],
    }
}

fn unreadable(level: Level, labels: Vec<(String, String)>, Unreadable(why): Unreadable) -> Said {
    Said {
        level: Some(level),
        labels,
        mode: Some(Mode::Strict),
        ports: Vec::new(),
        standing: Standing::Unreadable,
        complaints: vec![format!("{why}: taken as STRICT")],
    }
}

fn modes(
    spec: &Map<String, Value>,
    level: Level,
    complaints: &mut Vec<String>,
) -> Result<(Option<Mode>, Vec<PortMode>), Unreadable> {
    const KNOWN: [&str; 3] = ["selector", "mtls", "portLevelMtls"];
    if let Some(other) = spec.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(Unreadable(format!("{other} is not known")));
    }
    let of_all = match spec.get("mtls") {
        Some(mtls) => mode("mtls", mtls, complaints)?,
        None => None,
    };
    let by_port = match spec.get("portLevelMtls") {
        None => return Ok((of_all, Vec::new())),
        Some(by_port) => by_port.as_object(),
    };
    let by_port = by_port.ok_or_else(|| Unreadable("portLevelMtls cannot be read".to_owned()))?;
    if level != Level::Selecting && !by_port.is_empty() {
        let why = "portLevelMtls wants a selector";
        return Err(Unreadable(why.to_owned()));
    }
    let mut ports = Vec::new();
    for (port, mtls) in by_port {
        let place = format!("portLevelMtls[{port}]");
        let port = (port.parse().ok()).filter(|port| *port != 0);
        let port = port.ok_or_else(|| Unreadable(format!("{place} is no port")))?;
        // UNSET is the workload's, like a port of which nothing is said.
        if let Some(mode) = mode(&place, mtls, complaints)? {
            ports.push(PortMode { port, mode });
        }
    }
    Ok((of_all, ports))
}

fn mode(
    place: &str,
    mtls: &Value,
    complaints: &mut Vec<String>,
) -> Result<Option<Mode>, Unreadable> {
    let unreadable = || Unreadable(format!("{place} cannot be read"));
    let mtls = mtls.as_object().ok_or_else(unreadable)?;
    if mtls.keys().any(|key| key != "mode") {
        return Err(unreadable());
    }
    let word = mtls.get("mode").map(Value::as_str);
    match word {
        None | Some(Some("UNSET")) => Ok(None),
        Some(Some("STRICT")) => Ok(Some(Mode::Strict)),
        Some(Some("PERMISSIVE")) => Ok(Some(Mode::Permissive)),
        // Its peers go on to call it through tunnels: only a label, which they
        // see, could tell them otherwise.
        Some(Some("DISABLE")) => {
            complaints.push(format!(
                "{place}: DISABLE is taken as PERMISSIVE: labels and annotations take pods and ports out of the mesh"
            ));
            Ok(Some(Mode::Permissive))
        }
        Some(_) => Err(Unreadable(format!("{place}.mode is no mode"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn object(name: &str, created: u8, spec: &Value) -> Object {
        let (namespace, name) = name.split_once('/').unwrap();
        let object = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {
                "namespace": namespace, "name": name, "uid": name,
                "creationTimestamp": format!("2026-01-01T00:00:0{created}Z"),
            },
            "spec": spec,
        });
        Object::read(serde_json::from_value(object).unwrap()).unwrap()
    }

    /// `shop/db` with the label app=db, and `shop/web` and `ops/db`.
    fn resolved(objects: &[Object]) -> (HashMap<String, Authentication>, Vec<Note>) {
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        let (db, web) = (labels("db"), labels("web"));
        let pods = [
            ("shop", "db", &db),
            ("shop", "web", &web),
            ("ops", "db", &db),
        ];
        let pods = pods.map(|(namespace, name, labels)| Candidate {
            namespace,
            name,
            labels,
        });
        let reading = Reading {
            root_namespace: "istio-system".to_owned(),
            trust_domain: "example.org".parse().unwrap(),
            paths_as_istio: true,
        };
        resolve(objects.iter(), &pods, &reading, "v1")
    }

    fn db() -> Value {
        json!({"matchLabels": {"app": "db"}})
    }

    fn mode(mode: &str) -> Value {
        json!({"mode": mode})
    }

    #[test]
    fn whom_an_object_speaks_of() {
        let (of, notes) = resolved(&[
            object("shop/all", 1, &json!({"mtls": mode("STRICT")})),
            object(
                "shop/db",
                1,
                &json!({
                    "selector": db(), "mtls": mode("PERMISSIVE"),
                    "portLevelMtls": {"80": mode("STRICT"), "81": mode("UNSET"), "82": {}},
                }),
            ),
            object(
                "istio-system/mesh",
                1,
                &json!({"selector": {}, "mtls": mode("STRICT")}),
            ),
            object("elsewhere/none", 1, &json!({"mtls": mode("STRICT")})),
        ]);
        let word = |said: Option<Word>| said.map(|(mode, name)| (mode, name.to_string()));
        let told = |mode, name: &str| Some((mode, format!("PeerAuthentication {name}")));
        let of_db = &of["shop/db"];
        assert_eq!(word(of_db.selecting()), told(Mode::Permissive, "shop/db"));
        assert_eq!(word(of_db.of_namespace()), told(Mode::Strict, "shop/all"));
        let strict = PortMode {
            port: 80,
            mode: Mode::Strict,
        };
        assert_eq!(of_db.ports(), [strict]);
        assert_eq!(word(of["shop/web"].selecting()), None);
        let ops = &of["ops/db"];
        assert_eq!((ops.selecting(), ops.of_namespace()), (None, None));
        assert_eq!(
            word(ops.mesh_wide()),
            told(Mode::Strict, "istio-system/mesh")
        );
        let mut names: Vec<_> = notes.iter().map(|note| note.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["istio-system/mesh", "shop/all", "shop/db"]);
        assert!(notes.iter().all(|note| note.standing == Standing::Whole));
    }

    #[test]
    fn of_several_on_a_level_the_oldest_counts() {
        let standing = |notes: &[Note], name: &str| {
            let note = notes.iter().find(|note| note.name == name).unwrap();
            (note.standing, note.complaints.len())
        };
        let (of, notes) = resolved(&[
            object("shop/a", 2, &json!({"mtls": mode("PERMISSIVE")})),
            object("shop/z", 1, &json!({"mtls": mode("STRICT")})),
            object(
                "shop/y",
                2,
                &json!({"selector": db(), "mtls": mode("STRICT")}),
            ),
            object(
                "shop/x",
                2,
                &json!({"selector": db(), "mtls": mode("UNSET")}),
            ),
        ]);
        let of_namespace = of["shop/db"].of_namespace().unwrap();
        assert_eq!(of_namespace.0, Mode::Strict);
        assert_eq!(of["shop/db"].selecting(), None, "by name, and UNSET counts");
        assert_eq!(standing(&notes, "shop/a"), (Standing::PassedOver, 1));
        assert_eq!(standing(&notes, "shop/z"), (Standing::Whole, 0));
        assert_eq!(standing(&notes, "shop/y"), (Standing::PassedOver, 1));
    }

    #[test]
    fn what_cannot_be_read_is_strict_and_told() {
        let port =
            |port: &str| json!({"selector": db(), "portLevelMtls": {port: mode("PERMISSIVE")}});
        for spec in [
            json!({"mtls": mode("SOMETIMES")}),
            json!({"mtls": mode("strict")}),
            json!({"mtls": "PERMISSIVE"}),
            json!({"mtls": {"mode": "PERMISSIVE", "more": 1}}),
            json!({"mtls": mode("PERMISSIVE"), "more": 1}),
            json!({"mtls": mode("PERMISSIVE"), "portLevelMtls": {"80": mode("PERMISSIVE")}}),
            json!({"selector": db(), "mtls": mode("PERMISSIVE"), "portLevelMtls": []}),
            json!({"selector": {"matchLabels": {"app": "d*"}}, "mtls": mode("PERMISSIVE")}),
            port("http"),
            port("0"),
            port("65536"),
        ] {
            // Before older ones.
            let mut older = json!({"mtls": mode("PERMISSIVE")});
            if spec.get("selector").is_some() {
                older["selector"] = db();
            }
            let older = object("shop/older", 0, &older);
            let (of, notes) = resolved(&[older, object("shop/odd", 9, &spec)]);
            let of = &of["shop/db"];
            let (mode, name) = of.selecting().or_else(|| of.of_namespace()).unwrap();
            let told = (mode, &*name, of.ports());
            assert_eq!(
                told,
                (Mode::Strict, "PeerAuthentication shop/odd", &[][..]),
                "{spec}"
            );
            assert_eq!(notes[0].standing, Standing::Unreadable, "{spec}");
        }
    }

    #[test]
    fn what_is_not_taken_as_written_is_told() {
        let (of, notes) = resolved(&[object("shop/off", 1, &json!({"mtls": mode("DISABLE")}))]);
        assert_eq!(of["shop/db"].of_namespace().unwrap().0, Mode::Permissive);
        assert_eq!(notes[0].standing, Standing::InPart);
        assert!(notes[0].complaints[0].contains("taken as PERMISSIVE"));
        let spec = json!({"selector": db(), "mtls": mode("STRICT")});
        let (of, notes) = resolved(&[object("istio-system/db", 1, &spec)]);
        assert!(of.is_empty());
        assert_eq!(notes[0].standing, Standing::PassedOver);
    }
}
