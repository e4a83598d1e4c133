//! Whether the cluster has objects of a kind of Istio's, and in which version
//! of their API: what their CustomResourceDefinition says.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::policies::{GROUP, Kind};

/// In the order in which they are taken; they say the same.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// What a CustomResourceDefinition that is there gives to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Served {
    Version(String),
    /// It is being made, or serves no version that is known here.
    NotYet,
}

pub(super) fn definitions(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
    Api::all_with(client.clone(), &resource)
}

pub(super) fn objects(client: &Client, kind: Kind, version: &str) -> Api<DynamicObject> {
    let of = GroupVersionKind::gvk(GROUP, version, kind.word());
    let resource = ApiResource::from_gvk_with_plural(&of, kind.plural());
    Api::all_with(client.clone(), &resource)
}

impl Served {
    pub(super) fn read(definition: &Value) -> Self {
        let list = |of: &Value, name: &str| of[name].as_array().cloned().unwrap_or_default();
        let established = list(&definition["status"], "conditions")
            .iter()
            .any(|it| it["type"] == "Established" && it["status"] == "True");
        let versions = list(&definition["spec"], "versions");
        let is_served = |version: &&str| {
            (versions.iter()).any(|it| it["name"] == *version && it["served"] == true)
        };
        match VERSIONS.into_iter().find(is_served) {
            Some(version) if established => Self::Version(version.to_owned()),
            _ => Self::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(established: &str, versions: &Value) -> Served {
        Served::read(&json!({
            "spec": {"versions": versions},
            "status": {"conditions": [{"type": "Established", "status": established}]},
        }))
    }

    #[test]
    fn the_best_version_that_is_served() {
        let both = json!([{"name": "v1beta1", "served": true}, {"name": "v1", "served": true}]);
        assert_eq!(definition("True", &both), Served::Version("v1".to_owned()));
        let old = json!([{"name": "v1beta1", "served": true}, {"name": "v1", "served": false}]);
        let v1beta1 = Served::Version("v1beta1".to_owned());
        assert_eq!(definition("True", &old), v1beta1);
    }

    #[test]
    fn what_is_not_served_yet_is_not_read() {
        let both = json!([{"name": "v1", "served": true}]);
        assert_eq!(definition("False", &both), Served::NotYet);
        let other = json!([{"name": "v2", "served": true}]);
        assert_eq!(definition("True", &other), Served::NotYet);
        assert_eq!(Served::read(&json!({})), Served::NotYet);
    }
}
