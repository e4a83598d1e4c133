//! What a run was asked to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::candidates::Candidate;
use crate::families;

pub(crate) const USAGE: &str = "\
usage: cargo xtask bench [--quick] [--rounds N] [--millis N] [--peer NAME].. [--only FAMILY]..
                         [--json FILE]
       cargo xtask bench --publish FILE

  --quick        one short round, to see that everything works; its figures mean little
  --rounds N     of each measurement (6)
  --millis N     of each measurement, a round (1500)
  --peer NAME    besides direct and ours only these: chain, envoy, nginx, haproxy, stunnel
                 (without it: all but stunnel)
  --only FAMILY  of measurements; again for several
  --json FILE    puts the figures there; measures that are there and not in this run stay
  --publish FILE puts such a file into README.md, tests/benches/README.md and the chart

Families:";

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) span: Duration,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) json: Option<PathBuf>,
    only: Vec<String>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let mut options = Self {
            quick: false,
            rounds: 6,
            span: Duration::from_millis(1500),
            candidates: Vec::new(),
            json: None,
            only: Vec::new(),
        };
        let mut peers = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--quick" => {
                    options.quick = true;
                    options.rounds = 1;
                    options.span = Duration::from_millis(300);
                }
                "--rounds" => options.rounds = words.next()?.parse().ok().filter(|n| *n > 0)?,
                "--millis" => {
                    let millis = words.next()?.parse().ok().filter(|n| *n > 0)?;
                    options.span = Duration::from_millis(millis);
                }
                "--peer" => peers.push(Candidate::parse(words.next()?)?),
                "--json" => options.json = Some(words.next()?.into()),
                "--only" => {
                    let known = families::ALL.iter().map(|family| family.name);
                    let wanted = words.next()?;
                    options
                        .only
                        .push(known.into_iter().find(|name| name == wanted)?.to_owned());
                }
                _ => return None,
            }
        }
        options.candidates = Candidate::ALL
            .into_iter()
            .filter(|candidate| match candidate {
                Candidate::Direct | Candidate::Ours => true,
                Candidate::Stunnel => peers.contains(candidate),
                _ => peers.is_empty() || peers.contains(candidate),
            })
            .collect();
        Some(options)
    }

    pub(crate) fn wants(&self, family: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_families_are_chosen_by_name() {
        let all = Options::parse(&[]).unwrap();
        assert!(all.wants("bulk") && all.candidates.len() == 6);
        let some = Options::parse(&["--peer", "envoy", "--only", "bulk", "--quick"]).unwrap();
        assert_eq!(
            some.candidates,
            [Candidate::Direct, Candidate::Ours, Candidate::Envoy]
        );
        assert!(some.wants("bulk") && !some.wants("memory") && some.quick);
        assert!(Options::parse(&["--peer", "istio"]).is_none());
        assert!(Options::parse(&["--only", "nothing"]).is_none());
        assert!(Options::parse(&["--rounds", "0"]).is_none());
    }
}
