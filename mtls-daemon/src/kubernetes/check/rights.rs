//! What the daemon asks of the API server, and whether it may.

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::config::{self, Config, IstioPolicies, Source};

use super::super::policies::{GROUP, Kind};
use super::super::{ANSWER_WITHIN, root_cause};

/// A rule of the chart's roles (deploy/chart/templates/rbac.yaml).
struct Rule {
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    namespace: Option<String>,
    name: Option<String>,
}

impl Rule {
    const fn of(
        group: &'static str,
        resource: &'static str,
        verbs: &'static [&'static str],
    ) -> Self {
        Self {
            group,
            resource,
            verbs,
            namespace: None,
            name: None,
        }
    }

    fn named(self, name: &str) -> Self {
        let name = Some(name.to_owned());
        Self { name, ..self }
    }

    fn within(self, namespace: Option<&str>) -> Self {
        let namespace = namespace.map(str::to_owned);
        Self { namespace, ..self }
    }

    fn asked(&self, verb: &str) -> SelfSubjectAccessReview {
        let some = |text: &str| Some(text.to_owned());
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: some(self.group),
                    resource: some(self.resource),
                    verb: some(verb),
                    namespace: self.namespace.clone(),
                    name: self.name.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }

    fn shown(&self) -> String {
        let mut text = self.resource.to_owned();
        if !self.group.is_empty() {
            text = format!("{text}.{}", self.group);
        }
        if let Some(name) = &self.name {
            text = format!("{text} {name}");
        }
        if let Some(namespace) = &self.namespace {
            text = format!("{text} in {namespace}");
        }
        text
    }
}

const READ: &[&str] = &["list", "watch"];
const READ_EACH: &[&str] = &["get", "list", "watch"];

fn needed(kubernetes: &config::Kubernetes, config: &Config, own_namespace: &str) -> Vec<Rule> {
    let mut rules = vec![
        Rule::of("", "pods", READ_EACH),
        Rule::of("", "namespaces", READ),
        Rule::of("", "nodes", READ),
        Rule::of("", "services", READ),
        Rule::of("discovery.k8s.io", "endpointslices", READ),
        Rule::of("networking.k8s.io", "servicecidrs", READ),
        Rule::of("events.k8s.io", "events", &["create", "patch"]),
    ];
    if kubernetes.istio_policies == IstioPolicies::Read {
        for kind in Kind::ALL {
            let definitions = Rule::of("apiextensions.k8s.io", "customresourcedefinitions", READ);
            rules.push(definitions.named(kind.definition()));
            rules.push(Rule::of(GROUP, kind.plural(), READ));
        }
    }
    if let Some(Source::CertManager(asked, _)) = &config.identity.source {
        let verbs = &["create", "get", "watch", "delete"];
        let requests = Rule::of("cert-manager.io", "certificaterequests", verbs);
        rules.push(requests.within(asked.namespace.as_deref()));
    }
    if let Some(Source::Secrets(read, _)) = &config.identity.source {
        let of = |namespace: &String| Rule::of("", "secrets", READ).within(Some(namespace));
        rules.extend(read.namespaces.iter().map(of));
    }
    if let Some(daemonset) = &kubernetes.daemonset {
        let own = Rule::of("apps", "daemonsets", READ_EACH).named(daemonset);
        rules.push(own.within(Some(own_namespace)));
    }
    rules
}

/// One text for each rule that the account lacks something of.
pub(super) async fn missing(
    client: &Client,
    kubernetes: &config::Kubernetes,
    config: &Config,
) -> Vec<String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let reviews = &reviews;
    let rules = needed(kubernetes, config, client.default_namespace());
    let asked = rules.into_iter().map(|rule| async move {
        let verbs = rule.verbs.iter();
        let may = join_all(verbs.map(|verb| may(reviews, rule.asked(verb)))).await;
        let may: Result<Vec<bool>, String> = may.into_iter().collect();
        let what = rule.shown();
        match may {
            Ok(may) => {
                let not = rule.verbs.iter().zip(may).filter(|(_, may)| !may);
                let not: Vec<&str> = not.map(|(verb, _)| *verb).collect();
                (!not.is_empty()).then(|| {
                    format!(
                        "kubernetes: the daemon's account may not {} {what}: give it the roles of this version's chart (deploy/chart/templates/rbac.yaml)",
                        not.join(", ")
                    )
                })
            }
            Err(why) => Some(format!(
                "kubernetes: whether the daemon's account may use {what} is not known: {why}"
            )),
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn may(
    reviews: &Api<SelfSubjectAccessReview>,
    asked: SelfSubjectAccessReview,
) -> Result<bool, String> {
    let params = PostParams::default();
    match timeout(ANSWER_WITHIN, reviews.create(&params, &asked)).await {
        Ok(Ok(answer)) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_elapsed) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}
