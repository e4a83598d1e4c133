//! A scrape of a daemon's metrics, in Prometheus' text format.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// All samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Of whoever writes them.
    pub fn parse(text: &str) -> Result<Self> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                sample(line).ok_or_else(|| Error::Unreadable {
                    what: format!("the sample {line}"),
                    why: "it is not in Prometheus' text format".into(),
                })
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Sum of the samples of that name that carry all these labels; 0 if none does.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The one sample of that name that carries all these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut matching = self.matching(name, labels);
        let one = matching.next()?.value;
        matching.next().is_none().then_some(one)
    }

    /// The same as `sum`, of a metric that counts.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a counter, printed as a whole number"
    )]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) as u64
    }

    /// Values of one label among the samples above zero, such as the reasons
    /// of all failures.
    pub fn above_zero(&self, name: &str, label: &str) -> Vec<String> {
        self.matching(name, &[])
            .filter(|sample| sample.value > 0.0)
            .filter_map(|sample| sample.labels.get(label).cloned())
            .collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }
}

/// `name{key="value",...} 1.5`
fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (head, BTreeMap::new()),
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

fn labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_carries_the_labels() {
        let text = "# HELP mtls_x_total What.\n# TYPE mtls_x_total counter\n\
                    mtls_x_total{direction=\"outbound\",reason=\"a, \\\"b\\\"\"} 2\n\
                    mtls_x_total{direction=\"outbound\",reason=\"\"} 3\n\
                    mtls_x_total{direction=\"inbound\",reason=\"\"} 0\n\
                    mtls_up 1\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(
            metrics.count("mtls_x_total", &[("direction", "outbound")]),
            5
        );
        assert_eq!(metrics.count("mtls_x_total", &[("reason", "a, \"b\"")]), 2);
        assert_eq!(metrics.count("mtls_up", &[]), 1);
        assert_eq!(metrics.count("mtls_down", &[]), 0);
        assert_eq!(metrics.above_zero("mtls_x_total", "direction").len(), 2);
        assert_eq!(metrics.value("mtls_up", &[]), Some(1.0));
        assert_eq!(metrics.value("mtls_down", &[]), None);
        assert_eq!(metrics.value("mtls_x_total", &[]), None, "several");
    }

    #[test]
    fn refuses_what_is_no_sample() {
        assert!(Metrics::parse("<html>").is_err());
        assert!(Metrics::parse("x{y=1} 2").is_err());
    }
}
