use mtls_common::counters::{COUNT, Hook, Outcome, index};
use mtls_common::handoff::{has_room, outlives};
use mtls_common::maps::{
    AddressKey, Answer, AnswerKey, Dialled, FlowKey, Instance, Netns, NetworkKey, Node, Place,
    PortKey, Socket, capacity, name,
};
use mtls_common::probe::ProbeKey;
use mtls_common::reports::{Event, ReportKey, report_due};
use mtls_common::syn::Held;

#[test]
fn no_type_has_hidden_padding() {
    // The kernel compares keys as bytes; the sums are of the fields.
    assert_eq!(size_of::<FlowKey>(), 8 + 16 + 16 + 2 + 2 + 4);
    assert_eq!(size_of::<AddressKey>(), 8 + 16);
    assert_eq!(size_of::<NetworkKey>(), 8 + 4 + 16);
    assert_eq!(size_of::<PortKey>(), 8 + 2 + 2 + 4);
    assert_eq!(size_of::<AnswerKey>(), 8 + 16 + 2 + 6);
    assert_eq!(size_of::<Answer>(), 8 + 4 + 4);
    assert_eq!(size_of::<Held>(), 8 + 16 + 2 + 2 + 100);
    assert_eq!(size_of::<ProbeKey>(), 16 + 16 + 2 + 2);
    assert_eq!(size_of::<ReportKey>(), 8 + 8);
    assert_eq!(size_of::<Place>(), 16 + 2 + 2);
    assert_eq!(size_of::<Dialled>(), 16 + 2 + 2 + 4);
    assert_eq!(size_of::<Netns>(), 8 + 4 * 4 + 2 * 16);
    assert_eq!(size_of::<Node>(), 4 * 4 + 8);
    assert_eq!(size_of::<Instance>(), 8 + 4 * 4);
    assert_eq!(size_of::<Socket>(), 8 + 3 * 16 + 4 * 2 + 2 * 4);
    assert_eq!(size_of::<Event>(), 8 + 8 + 4 + 4 + 16 + 2 + 2 + 4);
    assert_eq!(
        u32::try_from(size_of::<NetworkKey>()),
        Ok(NetworkKey::BITS / 8)
    );
}

#[test]
fn counters_do_not_overlap() {
    let mut seen = std::collections::HashSet::new();
    for &hook in Hook::ALL {
        for &outcome in Outcome::ALL {
            let index = index(hook, outcome);
            assert!(index < COUNT);
            assert!(seen.insert(index), "{hook:?} {outcome:?}");
        }
    }
}

#[test]
fn words_are_unique() {
    let words: Vec<_> = Hook::ALL.iter().map(|hook| hook.word()).collect();
    let outcomes: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.word()).collect();
    for list in [&words, &outcomes, &name::PINNED.to_vec()] {
        let set: std::collections::HashSet<_> = list.iter().collect();
        assert_eq!(set.len(), list.len(), "{list:?}");
    }
}

#[test]
fn map_names_fit_the_kernel() {
    // BPF_OBJ_NAME_LEN, with its zero.
    for name in name::PINNED.iter().chain([&name::INSTANCE]) {
        assert!(name.len() < 16, "{name}");
    }
}

#[test]
fn reports_come_at_intervals() {
    assert!(report_due(None, 5, 10));
    assert!(!report_due(Some(5), 14, 10));
    assert!(report_due(Some(5), 15, 10));
    // A clock that another CPU read earlier.
    assert!(report_due(Some(5), 4, 10));
}

#[test]
fn only_an_orderly_end_leaves_a_destination_to_the_daemon() {
    let outliving: Vec<u32> = (0..16).filter(|&state| outlives(state)).collect();
    assert_eq!(outliving, [5]);
}

/// Of what greedy namespaces leave, the next one has as much as each of them.
#[test]
fn the_greedy_leave_room_for_the_next() {
    let size = i64::try_from(capacity::ORIGINAL_DST).unwrap();
    for greedy in [1, 2, 9, 250] {
        let (mut own, mut all) = (vec![0; greedy], 0);
        while own.iter().any(|&own| has_room(own, all)) {
            for own in &mut own {
                if has_room(*own, all) {
                    *own += 1;
                    all += 1;
                }
            }
        }
        let share = size / (i64::try_from(greedy).unwrap() + 1);
        let free = size - all;
        assert!((share - 1..=share + 1).contains(&free), "{greedy}: {free}");
        assert!(has_room(0, all) && has_room(free - 1, all));
    }
}

/// A counter that is off by some, after a daemon was killed, does no harm.
#[test]
fn a_count_below_nothing_has_room() {
    assert!(has_room(-3, -5));
    assert!(!has_room(0, i64::try_from(capacity::ORIGINAL_DST).unwrap()));
}
