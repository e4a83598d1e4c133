//! Who waits in connect(), and what the far application has answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;

use crate::netns::Cookie;

/// One attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub ends: Ends,
    /// Tells it from another one of the same two ends.
    pub sequence: u32,
}

/// A connection as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub instance: Cookie,
    /// The application's.
    pub source: SocketAddr,
    pub captured_at: SocketAddr,
}

/// Connections whose applications wait in connect(), or are about to be
/// accepted because of what was answered, a `T`.
pub struct Waiting<T>(RefCell<HashMap<Ends, Entry<T>>>);

struct Entry<T> {
    sequence: u32,
    answer: Option<T>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    New,
    /// Its first SYN was seen before, and its peer is being asked.
    Asked,
    Answered,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Waiting<T> {
    pub fn enter(&self, attempt: Attempt) -> Entered {
        let mut entries = self.0.borrow_mut();
        match entries.get(&attempt.ends) {
            Some(entry) if entry.sequence == attempt.sequence => match entry.answer {
                Some(_) => Entered::Answered,
                None => Entered::Asked,
            },
            // The application gave the former up, and has dialled anew.
            _ => {
                let entry = Entry {
                    sequence: attempt.sequence,
                    answer: None,
                };
                entries.insert(attempt.ends, entry);
                Entered::New
            }
        }
    }

    /// Whether somebody waits for it still. If not it is dropped.
    pub fn answered(&self, attempt: Attempt, answer: T) -> bool {
        let mut entries = self.0.borrow_mut();
        match entries.get_mut(&attempt.ends) {
            Some(entry) if entry.sequence == attempt.sequence => {
                entry.answer = Some(answer);
                true
            }
            _ => false,
        }
    }

    /// The answer, for the connection that was accepted because of it. There
    /// is one for it once.
    pub fn take(&self, ends: Ends) -> Option<T> {
        self.0.borrow_mut().remove(&ends)?.answer
    }

    /// Whether it was there still.
    pub fn leave(&self, attempt: Attempt) -> bool {
        let mut entries = self.0.borrow_mut();
        let is_it = |entry: &Entry<T>| entry.sequence == attempt.sequence;
        entries.get(&attempt.ends).is_some_and(is_it) && entries.remove(&attempt.ends).is_some()
    }

    /// The workload is gone.
    pub fn forget(&self, instance: Cookie) {
        self.0
            .borrow_mut()
            .retain(|ends, _| ends.instance != instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(instance: u64, port: u16, sequence: u32) -> Attempt {
        Attempt {
            ends: Ends {
                instance: Cookie(instance),
                source: ([127, 0, 0, 1], port).into(),
                captured_at: ([127, 64, 0, 1], 1).into(),
            },
            sequence,
        }
    }

    #[test]
    fn a_syn_that_comes_again_is_the_same_attempt() {
        let waiting = Waiting::default();
        let one = attempt(1, 1, 7);
        assert_eq!(waiting.enter(one), Entered::New);
        assert_eq!(waiting.enter(one), Entered::Asked);
        assert!(waiting.answered(one, "yes"));
        assert_eq!(waiting.enter(one), Entered::Answered);
        assert_eq!(waiting.take(one.ends), Some("yes"));
        assert_eq!(waiting.take(one.ends), None);
        assert!(!waiting.leave(one));
    }

    #[test]
    fn an_attempt_without_an_answer_has_none_to_take() {
        let waiting = Waiting::<()>::default();
        let one = attempt(1, 1, 7);
        waiting.enter(one);
        assert_eq!(waiting.take(one.ends), None);
    }

    #[test]
    fn a_new_attempt_of_the_same_ends_gets_nothing_of_the_former() {
        let waiting = Waiting::default();
        let (former, later) = (attempt(1, 1, 7), attempt(1, 1, 8));
        waiting.enter(former);
        assert!(waiting.answered(former, "former"));
        assert_eq!(waiting.enter(later), Entered::New);
        assert!(!waiting.answered(former, "former"));
        assert!(!waiting.leave(former));
        assert_eq!(waiting.enter(later), Entered::Asked);
        assert!(waiting.answered(later, "later"));
        assert_eq!(waiting.take(later.ends), Some("later"));
    }

    #[test]
    fn who_left_is_not_answered() {
        let waiting = Waiting::default();
        let one = attempt(1, 1, 7);
        waiting.enter(one);
        assert!(waiting.leave(one));
        assert!(!waiting.leave(one));
        assert!(!waiting.answered(one, "late"));
        assert_eq!(waiting.take(one.ends), None);
    }

    #[test]
    fn a_workload_goes_with_all_that_wait_and_no_others() {
        let waiting = Waiting::<()>::default();
        let (mine, other) = (attempt(1, 1, 7), attempt(2, 1, 7));
        waiting.enter(mine);
        waiting.enter(other);
        waiting.forget(mine.ends.instance);
        assert_eq!(waiting.enter(mine), Entered::New);
        assert_eq!(waiting.enter(other), Entered::Asked);
    }
}
