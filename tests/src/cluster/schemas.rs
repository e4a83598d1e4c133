//! What an API server says of the objects that it knows, for programs that
//! judge manifests without one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Doing, Error, Result, ensure};
use crate::programs;

use super::ControlPlane;

/// All of its schemas, in one file, and one a kind that leads into it.
pub(super) struct Schemas(PathBuf);

const ALL: &str = "all.json";

impl Schemas {
    pub(super) fn of(plane: &ControlPlane) -> Result<Self> {
        let folder = plane.folder().join("schemas");
        std::fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
        let said = plane.kubectl(&["get", "--raw", "/openapi/v2"])?;
        let mut all: Value = serde_json::from_str(&said).map_err(|error| Error::Unreadable {
            what: "the API server's schemas".to_owned(),
            why: error.to_string(),
        })?;
        let schemas = Self(folder);
        let mut kinds = HashSet::new();
        let definitions = all["definitions"].as_object_mut();
        for (name, definition) in definitions.into_iter().flatten() {
            close(name, definition);
            let own = definition["x-kubernetes-group-version-kind"].as_array();
            for kind in own.into_iter().flatten() {
                // Those of options for requests are of every group.
                let file = file_of(kind);
                if kinds.insert(file.clone()) {
                    let of_it = json!({"$ref": format!("{ALL}#/definitions/{name}")});
                    schemas.write(&file, &of_it)?;
                }
            }
        }
        ensure(kinds.contains("daemonset-apps-v1.json"), || {
            format!("schemas of {} kinds", kinds.len())
        })?;
        schemas.write(ALL, &json!({"definitions": all["definitions"]}))?;
        Ok(schemas)
    }

    /// Has kubeconform judge the manifests in a folder.
    pub(super) fn judge(&self, plane: &ControlPlane, manifests: &Path) -> Result {
        let schemas = self.0.join("{{.ResourceKind}}{{.KindSuffix}}.json");
        let said = plane
            .node()
            .spawn(programs::kubeconform()?)?
            .args(["-strict", "-summary", "-schema-location"])
            .arg(schemas)
            .arg(manifests)
            .output()?
            .success()?;
        ensure(said.contains("Invalid: 0, Errors: 0, Skipped: 0"), || {
            said.clone()
        })
    }

    fn write(&self, file: &str, schema: &Value) -> Result {
        let path = self.0.join(file);
        std::fs::write(&path, schema.to_string()).doing(|| format!("writing {}", path.display()))
    }
}

/// As kubeconform asks for it: the kind, the first word of its group, its version.
fn file_of(kind: &Value) -> String {
    let word = |key: &str| kind[key].as_str().unwrap_or_default().to_lowercase();
    let (group, version) = (word("group"), word("version"));
    let group = group.split('.').next().unwrap_or_default();
    let group = match group {
        "" => String::new(),
        group => format!("{group}-"),
    };
    format!("{}-{group}{version}.json", word("kind"))
}

/// Makes of an object one that has no other fields than those which are told,
/// and takes what the API server takes in two types.
fn close(name: &str, schema: &mut Value) {
    let text_or_number = ["util.intstr.IntOrString", "api.resource.Quantity"];
    if text_or_number.iter().any(|it| name.ends_with(it)) {
        *schema = json!({"type": ["string", "number"]});
        return;
    }
    if let Value::Object(fields) = schema {
        close_object(fields);
    }
}

fn close_object(fields: &mut Map<String, Value>) {
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
}
