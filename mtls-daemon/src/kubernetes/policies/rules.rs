//! The rules of an AuthorizationPolicy, key by key.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::read::written;
use super::{Object, Reading};
use crate::config::{Action, Condition, Holds, Operation, Pattern, Rule, RuleSource, principal};

/// Reads the rules of one object.
pub(super) struct Reader<'a> {
    object: &'a Object,
    reading: &'a Reading,
    action: Action,
    pub(super) lost: Vec<Lost>,
}

/// Something that cannot be judged.
pub(super) struct Lost {
    pub(super) place: String,
    pub(super) why: String,
}

/// Istio's name for the trust domain of the mesh, whatever that is called.
const OWN_TRUST_DOMAIN: &str = "cluster.local/";

/// What is said in connections, or by those who passed them on.
const HTTP: &str = "speaks of what is said in connections, which is not read here";
const GATEWAYS: &str = "speaks of what a gateway says of its clients, which nobody is trusted with";
const OTHER_PATHS: &str = "kubernetes.spiffe_path is not /ns/{namespace}/sa/{service_account}";

impl<'a> Reader<'a> {
    pub(super) fn new(object: &'a Object, reading: &'a Reading, action: Action) -> Self {
        Self {
            object,
            reading,
            action,
            lost: Vec::new(),
        }
    }

    pub(super) fn rules(&mut self, rules: &[Value]) -> Vec<Rule> {
        let rules = rules.iter().enumerate();
        rules.map(|(nth, rule)| self.rule(nth, rule)).collect()
    }

    fn rule(&mut self, nth: usize, rule: &Value) -> Rule {
        let before = self.lost.len();
        let place = format!("rules[{nth}]");
        let mut read = Rule {
            label: format!("{}[{nth}]", self.object).into(),
            from: Vec::new(),
            to: Vec::new(),
            when: Vec::new(),
            written: written(self.object),
        };
        match rule.as_object() {
            None => self.lose(place, "is no rule"),
            Some(rule) => {
                for (key, value) in rule {
                    let place = format!("{place}.{key}");
                    match key.as_str() {
                        "from" => read.from = self.each(&place, value, "source", Self::source),
                        "to" => read.to = self.each(&place, value, "operation", Self::operation),
                        "when" => read.when = self.when(&place, value),
                        _ => self.lose(place, "is not known"),
                    }
                }
            }
        }
        if self.lost.len() > before && self.action == Action::Allow {
            let key = "what is not judged here";
            let holds = Holds::Never;
            (read.from, read.to) = (Vec::new(), Vec::new());
            read.when = vec![Condition { key, holds }];
        }
        read
    }

    fn lose(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.lost.push(Lost {
            place: place.into(),
            why: why.into(),
        });
    }

    /// The items of `from` and `to`. One of which nothing is left is any.
    fn each<T: Default>(
        &mut self,
        place: &str,
        list: &Value,
        inner: &str,
        read: fn(&mut Self, &str, &Map<String, Value>) -> T,
    ) -> Vec<T> {
        let Some(items) = list.as_array().filter(|items| !items.is_empty()) else {
            self.lose(place, "is no list, or an empty one");
            return Vec::new();
        };
        let mut all = Vec::new();
        for (nth, item) in items.iter().enumerate() {
            let place = format!("{place}[{nth}]");
            let mut keys = item.as_object().into_iter().flatten();
            let one = match (keys.next(), keys.next()) {
                (Some((key, Value::Object(said))), None) if key == inner && !said.is_empty() => {
                    read(self, &format!("{place}.{inner}"), said)
                }
                _ => {
                    self.lose(place, format!("does not say one {inner}"));
                    T::default()
                }
            };
            all.push(one);
        }
        all
    }

    fn source(&mut self, place: &str, said: &Map<String, Value>) -> RuleSource {
        let mut source = RuleSource::default();
        let (mut accounts, mut not_accounts) = (Vec::new(), Vec::new());
        for (key, list) in said {
            let place = format!("{place}.{key}");
            match key.as_str() {
                "principals" => source.principals = self.principals(place, list),
                "notPrincipals" => source.not_principals = self.principals(place, list),
                "namespaces" => source.namespaces = self.namespaces(place, list),
                "notNamespaces" => source.not_namespaces = self.namespaces(place, list),
                "serviceAccounts" => accounts = self.accounts(place, list),
                "notServiceAccounts" => not_accounts = self.accounts(place, list),
                "ipBlocks" => source.ip_blocks = self.blocks(place, list),
                "notIpBlocks" => source.not_ip_blocks = self.blocks(place, list),
                "requestPrincipals" | "notRequestPrincipals" => self.lose(place, HTTP),
                "remoteIpBlocks" | "notRemoteIpBlocks" => self.lose(place, GATEWAYS),
                _ => self.lose(place, "is not judged here"),
            }
        }
        source.not_principals.append(&mut not_accounts);
        match source.principals.is_empty() {
            true => source.principals = accounts,
            false if !accounts.is_empty() => self.lose(
                format!("{place}.serviceAccounts"),
                "does not go together with principals",
            ),
            false => {}
        }
        source
    }

    fn operation(&mut self, place: &str, said: &Map<String, Value>) -> Operation {
        let mut operation = Operation::default();
        for (key, list) in said {
            let place = format!("{place}.{key}");
            match key.as_str() {
                "ports" => operation.ports = self.ports(place, list),
                "notPorts" => operation.not_ports = self.ports(place, list),
                "hosts" | "notHosts" | "methods" | "notMethods" | "paths" | "notPaths" => {
                    self.lose(place, HTTP);
                }
                _ => self.lose(place, "is not judged here"),
            }
        }
        operation
    }

    fn when(&mut self, place: &str, list: &Value) -> Vec<Condition> {
        let Some(items) = list.as_array().filter(|items| !items.is_empty()) else {
            self.lose(place, "is no list, or an empty one");
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items
            .filter_map(|(nth, item)| self.condition(&format!("{place}[{nth}]"), item))
            .collect()
    }

    /// `None`: nothing of it can be judged.
    fn condition(&mut self, place: &str, item: &Value) -> Option<Condition> {
        let known = |key: &String| matches!(key.as_str(), "key" | "values" | "notValues");
        let item = item.as_object();
        let item = item.filter(|item| item.len() > 1 && item.keys().all(known));
        let key = item.and_then(|item| item.get("key")?.as_str());
        let (Some(item), Some(key)) = (item, key) else {
            self.lose(place, "is no condition");
            return None;
        };
        // As `from` and `to` say the same.
        let said = |values: &str, not_values: &str| {
            let list = |from, to: &str| Some((to.to_owned(), item.get(from)?.clone()));
            let both = [list("values", values), list("notValues", not_values)];
            both.into_iter().flatten().collect::<Map<_, _>>()
        };
        let of_source = |key, values, not_values| (key, Some(said(values, not_values)));
        let (key, source) = match key {
            "source.principal" => of_source("source.principal", "principals", "notPrincipals"),
            "source.namespace" => of_source("source.namespace", "namespaces", "notNamespaces"),
            "source.serviceaccount" => of_source(
                "source.serviceaccount",
                "serviceAccounts",
                "notServiceAccounts",
            ),
            "source.ip" => of_source("source.ip", "ipBlocks", "notIpBlocks"),
            "destination.port" => ("destination.port", None),
            "destination.ip" => ("destination.ip", None),
            "remote.ip" => {
                self.lose(format!("{place}: remote.ip"), GATEWAYS);
                return None;
            }
            other => {
                self.lose(format!("{place}: {other}"), HTTP);
                return None;
            }
        };
        let holds = match (key, source) {
            (_, Some(source)) => Holds::From(self.source(place, &source)),
            ("destination.port", None) => {
                Holds::To(self.operation(place, &said("ports", "notPorts")))
            }
            (_, None) => {
                let mut blocks = |name: &str| {
                    let list = item.get(name);
                    list.map(|list| self.blocks(format!("{place}.{name}"), list))
                };
                let (wanted, excluded) = (blocks("values"), blocks("notValues"));
                Holds::At(wanted.unwrap_or_default(), excluded.unwrap_or_default())
            }
        };
        Some(Condition { key, holds })
    }

    fn principals(&mut self, place: String, list: &Value) -> Vec<Pattern> {
        let reading = self.reading;
        self.list(place, list, |text| {
            let bare = text.strip_prefix("spiffe://").unwrap_or(text);
            match bare.strip_prefix(OWN_TRUST_DOMAIN) {
                Some(_) if !reading.paths_as_istio => Err(OTHER_PATHS.to_owned()),
                Some(path) => principal(&format!("{}/{path}", reading.trust_domain)),
                None => principal(bare),
            }
        })
    }

    fn namespaces(&mut self, place: String, list: &Value) -> Vec<Pattern> {
        let as_istio = self.reading.paths_as_istio;
        self.list(place, list, |text| match as_istio {
            true => Pattern::parse(text).map_err(|no| no.explain(text)),
            false => Err(OTHER_PATHS.to_owned()),
        })
    }

    /// `NAMESPACE/ACCOUNT`, or `ACCOUNT` of the object's own namespace, in
    /// whichever trust domain.
    fn accounts(&mut self, place: String, list: &Value) -> Vec<Pattern> {
        let as_istio = self.reading.paths_as_istio;
        let own = &self.object.namespace;
        self.list(place, list, |text| {
            let (namespace, account) = text.split_once('/').unwrap_or((own, text));
            let is_name = |name: &str| {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
                !name.is_empty() && name.chars().all(fits)
            };
            match as_istio {
                false => Err(OTHER_PATHS.to_owned()),
                true if is_name(namespace) && is_name(account) => {
                    Ok(Pattern::Suffix(format!("/ns/{namespace}/sa/{account}")))
                }
                true => Err(format!("{text:?} is no service account")),
            }
        })
    }

    fn blocks(&mut self, place: String, list: &Value) -> Vec<IpNet> {
        self.list(place, list, |text| {
            block(text).ok_or_else(|| format!("{text:?} is neither an address nor a network"))
        })
    }

    fn ports(&mut self, place: String, list: &Value) -> Vec<u16> {
        self.list(place, list, |text| match u16::from_str(text) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is no port")),
        })
    }

    /// All of a list of texts, or nothing of it: an item that is left out would
    /// make it say something else.
    fn list<T>(
        &mut self,
        place: String,
        list: &Value,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(items) = list.as_array().filter(|items| !items.is_empty()) else {
            self.lose(place, "is no list, or an empty one");
            return Vec::new();
        };
        let read = |item: &Value| match item.as_str() {
            Some(text) => read(text),
            None => Err(format!("{item} is no text")),
        };
        match items.iter().map(read).collect() {
            Ok(all) => all,
            Err(why) => {
                self.lose(format!("{place}:"), why);
                Vec::new()
            }
        }
    }
}

/// IPv4 in IPv6's clothes is IPv4.
fn block(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    match (net.addr().to_canonical(), net) {
        (IpAddr::V4(four), IpNet::V6(net)) => {
            let length = net.prefix_len().checked_sub(96)?;
            IpNet::new(four.into(), length).ok()
        }
        _ => Some(net),
    }
}
