//! `certificates`: what the workloads show, what peers are judged by, and
//! until when.

use std::time::SystemTime;

use crate::admin::client;
use crate::admin::reply::CertificatesReply;
use crate::admin::view::{CertificateStatus, Certificates, RevocationStatus};

use super::arguments::Ask;
use super::humane::{time, until};
use super::table::table;
use super::{Exit, ask, socket};

pub(super) fn command(asked: &Ask) -> Exit {
    let socket = socket(&asked.socket);
    ask(asked.output, client::certificates(&socket), show, |_| {
        Exit::Done
    })
}

fn show(reply: &CertificatesReply) -> String {
    let Certificates {
        certificates,
        roots,
        revocation,
    } = &reply.all;
    let mut out = own(certificates, reply.time);
    const ROOTS: [&str; 3] = ["TRUST DOMAIN", "ROOT", "ENDS"];
    let roots = roots.iter().map(|root| {
        vec![
            root.trust_domain.to_string(),
            root.subject.clone(),
            until(root.not_after, reply.time),
        ]
    });
    out.push('\n');
    out.push_str(&table(&ROOTS, roots));
    out.push('\n');
    out.push_str(&lists(revocation, reply.time));
    let errors = certificates
        .iter()
        .filter_map(|one| Some((format!("workload {}", one.workload), one.error.as_ref()?)));
    let more = revocation.iter().filter_map(|one| {
        Some((
            format!("revocation lists of {}", one.trust_domain),
            one.error.as_ref()?,
        ))
    });
    let errors: Vec<String> = errors
        .chain(more)
        .map(|(what, error)| format!("  {what}: {error}\n"))
        .collect();
    if !errors.is_empty() {
        out.push_str("\nto look at:\n");
        out.extend(errors);
    }
    out
}

fn own(certificates: &[CertificateStatus], now: SystemTime) -> String {
    const HEAD: [&str; 9] = [
        "WORKLOAD", "IDENTITY", "SOURCE", "ISSUER", "SERIAL", "BEGAN", "ENDS", "RENEWAL", "RENEWED",
    ];
    if certificates.is_empty() {
        return "no workloads\n".to_owned();
    }
    let rows = certificates.iter().map(|one| {
        let (issuer, serial, began, ends) = match &one.svid {
            Some(svid) => (
                svid.issuer.clone(),
                svid.serial.clone(),
                time(svid.not_before),
                until(svid.not_after, now),
            ),
            None => (
                "-".to_owned(),
                "none".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ),
        };
        let renewal = match (one.next_renewal, &one.svid) {
            (Some(at), _) => until(at, now),
            (None, Some(_)) => "when it comes".to_owned(),
            (None, None) => "-".to_owned(),
        };
        let (good, bad) = (one.renewals_succeeded, one.renewals_failed);
        let renewed = match bad {
            0 => good.to_string(),
            _ => format!("{good}, {bad} FAILED"),
        };
        vec![
            one.workload.clone(),
            one.identity.to_string(),
            one.source.clone(),
            issuer,
            serial,
            began,
            ends,
            renewal,
            renewed,
        ]
    });
    table(&HEAD, rows)
}

fn lists(revocation: &[RevocationStatus], now: SystemTime) -> String {
    const HEAD: [&str; 6] = [
        "TRUST DOMAIN",
        "POLICY",
        "DEPTH",
        "LIST OF",
        "REVOKED",
        "NEXT UPDATE",
    ];
    if revocation.is_empty() {
        return "no revocation lists are configured: a certificate counts until it ends\n"
            .to_owned();
    }
    let rows = revocation.iter().flat_map(|one| {
        let row = |issuer: &str, entries: String, next: String| {
            vec![
                one.trust_domain.to_string(),
                one.policy.clone(),
                one.depth.clone(),
                issuer.to_owned(),
                entries,
                next,
            ]
        };
        let none = one
            .lists
            .is_empty()
            .then(|| row("NONE", "-".to_owned(), "-".to_owned()));
        let lists = one.lists.iter().map(move |list| {
            let next = match list.next_update > now {
                true => until(list.next_update, now),
                false => format!("STALE since {}", time(list.next_update)),
            };
            row(&list.issuer, list.entries.to_string(), next)
        });
        lists.chain(none).collect::<Vec<_>>()
    });
    table(&HEAD, rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::reply::SCHEMA;
    use crate::admin::samples;

    fn reply(all: Certificates) -> CertificatesReply {
        CertificatesReply {
            schema: SCHEMA,
            time: samples::status().started + Duration::from_secs(1000),
            all,
        }
    }

    #[test]
    fn everything_in_three_tables() {
        assert_eq!(
            show(&reply(samples::certificates())),
            "\
WORKLOAD  IDENTITY                    SOURCE   ISSUER   SERIAL  BEGAN                 ENDS        RENEWAL     RENEWED
web       spiffe://example.org/web    disk-ca  CN=root  0a1b    2027-01-15T08:00:00Z  in 43m 20s  in 11m 40s  4, 1 FAILED
cache     spiffe://example.org/cache  files    -        none    -                     -           -           0, 2 FAILED

TRUST DOMAIN  ROOT     ENDS
example.org   CN=root  in 9d 23h

TRUST DOMAIN  POLICY  DEPTH  LIST OF  REVOKED  NEXT UPDATE
example.org   hard    chain  CN=root  3        in 1h 43m

to look at:
  workload cache: /cache.pem: No such file or directory
"
        );
        let none = Certificates {
            certificates: Vec::new(),
            roots: Vec::new(),
            revocation: Vec::new(),
        };
        assert!(show(&reply(none)).contains("no revocation lists are configured"));
    }
}
