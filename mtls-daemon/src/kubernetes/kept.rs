//! The objects of one kind, kept as their watch tells of them.

use std::collections::HashMap;

use kube::runtime::watcher::Event;

/// What matters of each object, by `namespace/name`.
#[derive(Debug)]
pub(super) struct Kept<T> {
    now: HashMap<String, T>,
    /// A list that is still coming; it replaces `now` when it is whole.
    coming: HashMap<String, T>,
    is_whole: bool,
    /// Told since the start, and not only known from before.
    is_told: bool,
}

/// What an event changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<T> {
    Nothing,
    /// One object, and what was kept of it before.
    One(String, Option<T>),
    All,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            now: HashMap::new(),
            coming: HashMap::new(),
            is_whole: false,
            is_told: false,
        }
    }
}

impl<T: PartialEq> Kept<T> {
    /// As an earlier daemon knew them.
    pub(super) fn known(now: HashMap<String, T>) -> Self {
        Self {
            now,
            is_whole: true,
            ..Self::default()
        }
    }

    /// `read` says what matters of an object, if anything does.
    pub(super) fn heed<K>(
        &mut self,
        event: Event<K>,
        key: impl Fn(&K) -> String,
        read: impl Fn(K) -> Option<T>,
    ) -> Change<T> {
        match event {
            Event::Init => {
                self.coming.clear();
                Change::Nothing
            }
            Event::InitApply(object) => {
                let key = key(&object);
                if let Some(kept) = read(object) {
                    self.coming.insert(key, kept);
                }
                Change::Nothing
            }
            Event::InitDone => {
                let coming = std::mem::take(&mut self.coming);
                let same = self.is_whole && self.now == coming;
                self.now = coming;
                let first = !self.is_told;
                (self.is_whole, self.is_told) = (true, true);
                if same && !first {
                    Change::Nothing
                } else {
                    Change::All
                }
            }
            Event::Apply(object) => {
                let key = key(&object);
                match read(object) {
                    Some(kept) if self.now.get(&key) == Some(&kept) => Change::Nothing,
                    Some(kept) => {
                        let before = self.now.insert(key.clone(), kept);
                        Change::One(key, before)
                    }
                    None => self.remove(key),
                }
            }
            Event::Delete(object) => self.remove(key(&object)),
        }
    }

    fn remove(&mut self, key: String) -> Change<T> {
        match self.now.remove(&key) {
            Some(before) => Change::One(key, Some(before)),
            None => Change::Nothing,
        }
    }

    /// Whether everything that there is has been told.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    pub(super) fn now(&self) -> &HashMap<String, T> {
        &self.now
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.now.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.now.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.now.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heed(kept: &mut Kept<u32>, event: Event<(&str, u32)>) -> Change<u32> {
        kept.heed(
            event,
            |(key, _)| (*key).to_owned(),
            |(_, value)| Some(value),
        )
    }

    #[test]
    fn a_list_counts_when_it_is_whole() {
        let mut kept = Kept::default();
        heed(&mut kept, Event::Init);
        heed(&mut kept, Event::InitApply(("a", 1)));
        assert!(!kept.is_whole() && kept.get("a").is_none());
        assert_eq!(heed(&mut kept, Event::InitDone), Change::All);
        assert_eq!(kept.get("a"), Some(&1));

        // While a new list comes the old one goes on; what it lacks is gone.
        heed(&mut kept, Event::Init);
        heed(&mut kept, Event::InitApply(("b", 2)));
        assert_eq!(kept.get("a"), Some(&1));
        heed(&mut kept, Event::InitDone);
        assert_eq!((kept.get("a"), kept.get("b")), (None, Some(&2)));
    }

    #[test]
    fn what_was_known_stands_until_a_whole_list_is_told() {
        let mut kept = Kept::known(HashMap::from([("a".to_owned(), 1)]));
        assert!(kept.is_whole() && !kept.is_told());
        heed(&mut kept, Event::Init);
        assert_eq!(kept.get("a"), Some(&1));
        // Even one that says the same is news: now it is certain.
        heed(&mut kept, Event::InitApply(("a", 1)));
        assert_eq!(heed(&mut kept, Event::InitDone), Change::All);
        assert!(kept.is_told());
    }

    #[test]
    fn only_what_matters_is_a_change() {
        let mut kept = Kept::default();
        let added = heed(&mut kept, Event::Apply(("a", 1)));
        assert_eq!(added, Change::One("a".to_owned(), None));
        assert_eq!(heed(&mut kept, Event::Apply(("a", 1))), Change::Nothing);
        let gone = heed(&mut kept, Event::Delete(("a", 1)));
        assert_eq!(gone, Change::One("a".to_owned(), Some(1)));
        assert_eq!(heed(&mut kept, Event::Delete(("a", 1))), Change::Nothing);
    }
}
