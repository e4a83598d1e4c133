use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Pair>, Broken> {
    let mut fields = vec![];
    let all = decoder.decode(block, 1 << 20, |name, value| {
        fields.push((name.to_vec(), value.to_vec()));
    })?;
    assert_eq!(all, Fields::All);
    Ok(fields)
}

fn pairs(fields: &[(&str, &str)]) -> Vec<Pair> {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// RFC 7541, C.3 and C.4: three requests, plain and Huffman-coded.
#[test]
fn the_requests_of_the_rfc() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let wanted = [
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ][..],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        for (block, wanted) in blocks.iter().zip(wanted) {
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(wanted)));
        }
        assert_eq!((decoder.size, decoder.table.len()), (164, 3));
    }
}

/// RFC 7541, C.5: answers through a table of 256 bytes, which evicts.
#[test]
fn the_answers_of_the_rfc() {
    let mut decoder = Decoder::new();
    let blocks = [
        "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65
         2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0
         5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851
         5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let wanted = [
        pairs(&[
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ]),
        pairs(&[
            (":status", "307"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ]),
        pairs(&[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", "https://www.example.com"),
            ("content-encoding", "gzip"),
            (
                "set-cookie",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ]),
    ];
    for (block, wanted) in blocks.iter().zip(wanted) {
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(wanted));
    }
    assert_eq!((decoder.size, decoder.table.len()), (215, 3));
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    for bad in [
        "80",             // index 0
        "be",             // an entry that is not there
        "ff ffffff ff7f", // an integer past all bounds
        "ff",             // cut off in an integer
        "00",             // cut off before a string
        "00 05 61",       // and in one
        "00 81 00 00",    // a string of bad Huffman
        "82 20",          // a resize behind a field
        "3fe21f",         // a table larger than allowed
        "0f",             // an index that is cut off
    ] {
        assert_eq!(decode(&mut Decoder::new(), &hex(bad)), Err(Broken), "{bad}");
    }
}

#[test]
fn a_forbidden_table_is_gone() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &hex("40 01 61 01 62 be")).unwrap();
    decoder.forbid_table();
    assert_eq!(decode(&mut decoder, &hex("be")), Err(Broken));
    // To say so is right, to grow it again is not, and what is to be
    // remembered is just forgotten.
    let remembered = decode(&mut decoder, &hex("20 40 01 61 01 62"));
    assert_eq!(remembered, Ok(pairs(&[("a", "b")])));
    assert_eq!((decoder.size, decoder.table.len()), (0, 0));
    assert_eq!(decode(&mut decoder, &hex("3fe11f")), Err(Broken));
    assert_eq!(decode(&mut decoder, &hex("20 20 82")).unwrap().len(), 1);
}

#[test]
fn a_list_past_its_limit_is_read_but_not_told() {
    let mut decoder = Decoder::new();
    let mut told = 0;
    // Each counts 1 + 1 + 32.
    let block = hex("00 01 61 01 62 00 01 61 01 62 40 01 61 01 62");
    let fields = decoder.decode(&block, 68, |_, _| told += 1);
    assert_eq!((fields, told), (Ok(Fields::TooMany), 2));
    assert_eq!(decoder.table.len(), 1, "the table is as the peer's");
}

proptest! {
    #[test]
    fn literals_come_back(
        fields in vec((vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..400)), 0..8),
        status in 100..1_000u16,
    ) {
        let mut block = vec![];
        put_no_table(&mut block);
        put_status(&mut block, status);
        for (name, value) in &fields {
            put_literal(&mut block, name, value);
        }
        let mut wanted = pairs(&[(":status", &status.to_string())]);
        wanted.extend(fields);
        prop_assert_eq!(decode(&mut Decoder::new(), &block), Ok(wanted));
    }

    #[test]
    fn anything_at_all_is_taken_or_refused(blocks in vec(vec(any::<u8>(), 0..300), 1..8)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let mut list = 0;
            let _ = decoder.decode(&block, 1_000, |name, value| {
                list += name.len() + value.len() + OVERHEAD;
            });
            prop_assert!(list <= 1_000);
            let held: usize = decoder.table.iter().map(|(n, v)| n.len() + v.len() + OVERHEAD).sum();
            prop_assert!(held == decoder.size && held <= decoder.limit);
        }
    }
}
