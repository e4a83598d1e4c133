//! Turns at what costs a worker time and memory before it knows with whom it
//! speaks. When all are taken, whoever has the most gives its oldest up: one
//! source that holds as many as it can get keeps nobody else out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use tokio::sync::Notify;

/// The turns of one worker.
#[derive(Debug)]
pub struct Turns {
    most: usize,
    next: Cell<u64>,
    /// In the order in which they were taken.
    taken: RefCell<BTreeMap<u64, Taken>>,
    by_source: RefCell<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
struct Taken {
    source: IpAddr,
    lost: Rc<Notify>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
    lost: Rc<Notify>,
}

impl Turns {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            next: Cell::new(0),
            taken: RefCell::default(),
            by_source: RefCell::default(),
        }
    }

    /// A turn for who comes from there; none if all are taken and nobody has
    /// more of them than it has.
    pub fn take(&self, source: IpAddr) -> Option<Turn<'_>> {
        let source = network(source);
        if self.taken.borrow().len() >= self.most && !self.make_room(source) {
            return None;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let lost = Rc::new(Notify::new());
        let taken = Taken {
            source,
            lost: Rc::clone(&lost),
        };
        self.taken.borrow_mut().insert(number, taken);
        *self.by_source.borrow_mut().entry(source).or_default() += 1;
        Some(Turn {
            turns: self,
            number,
            lost,
        })
    }

    /// Takes the oldest turn of who has the most away.
    fn make_room(&self, newcomer: IpAddr) -> bool {
        let by_source = self.by_source.borrow();
        let own = by_source.get(&newcomer).copied().unwrap_or(0);
        let Some((&greediest, &count)) = by_source.iter().max_by_key(|(_, count)| **count) else {
            return false;
        };
        drop(by_source);
        if count <= own + 1 {
            return false;
        }
        let taken = self.taken.borrow();
        let oldest = taken.iter().find(|(_, taken)| taken.source == greediest);
        let Some((&oldest, _)) = oldest else {
            return false;
        };
        drop(taken);
        if let Some(taken) = self.give_back(oldest) {
            taken.lost.notify_one();
        }
        true
    }

    fn give_back(&self, number: u64) -> Option<Taken> {
        let taken = self.taken.borrow_mut().remove(&number)?;
        let mut by_source = self.by_source.borrow_mut();
        if let Some(count) = by_source.get_mut(&taken.source) {
            *count -= 1;
            if *count == 0 {
                by_source.remove(&taken.source);
            }
        }
        Some(taken)
    }
}

impl Turn<'_> {
    /// Returns when somebody else has got it.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.turns.give_back(self.number));
    }
}

/// One host can have every address of its /64.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(source: &str) -> IpAddr {
        source.parse().unwrap()
    }

    async fn is_lost(turn: &Turn<'_>) -> bool {
        tokio::time::timeout(Duration::ZERO, turn.lost())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn whoever_has_the_most_gives_up_its_oldest() {
        let turns = Turns::new(4);
        let greedy: Vec<_> = (0..4)
            .map(|_| turns.take(at("10.0.0.1")).unwrap())
            .collect();
        assert!(turns.take(at("10.0.0.1")).is_none(), "its own fault");
        let modest = turns.take(at("10.0.0.2")).unwrap();
        assert!(is_lost(&greedy[0]).await);
        assert!(!is_lost(&greedy[1]).await);
        let third = turns.take(at("10.0.0.3")).unwrap();
        assert!(is_lost(&greedy[1]).await);
        // Two, one and one: nobody has more than the fourth would.
        assert!(turns.take(at("10.0.0.2")).is_none());
        assert!(!is_lost(&modest).await && !is_lost(&third).await);
        drop(greedy);
        assert_eq!(turns.taken.borrow().len(), 2);
        drop((modest, third));
        assert!(turns.by_source.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_source() {
        let turns = Turns::new(2);
        let first = turns.take(at("fd00:1::1")).unwrap();
        let _second = turns.take(at("fd00:1::2")).unwrap();
        assert!(turns.take(at("fd00:1::3")).is_none());
        let _other = turns.take(at("fd00:1:0:1::1")).unwrap();
        assert!(is_lost(&first).await);
    }
}
