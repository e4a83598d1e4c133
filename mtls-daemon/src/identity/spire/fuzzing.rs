//! What the fuzzer feeds: bytes of an agent, once HTTP/2 has opened them.

use super::grpc;
use super::messages::{Offer, bundles};
use crate::spiffe::SpiffeId;

/// An answer's body. The first byte says in what pieces the rest arrives.
pub fn answer(input: &[u8], wanted: &SpiffeId) {
    let Some((cut, sent)) = input.split_first() else {
        return;
    };
    for message in grpc::messages(sent, 1 + usize::from(*cut)).unwrap_or_default() {
        if let Ok(offer) = Offer::parse(&message)
            && let Ok(issued) = offer.choose(wanted)
        {
            assert!(offer.svids.iter().any(|svid| svid.id == wanted.as_str()));
            drop(issued);
        }
        for (name, bundle) in bundles(&message).unwrap_or_default() {
            assert!(bundle.is_err() || bundle.is_ok_and(|bundle| *bundle.trust_domain() == name));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(
            cut: u8,
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..4),
            tail in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut input = vec![cut];
            for message in messages {
                input.push(0);
                input.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
                input.extend_from_slice(&message);
            }
            input.extend_from_slice(&tail);
            answer(&input, &"spiffe://example.org/web".parse().unwrap());
        }
    }
}
