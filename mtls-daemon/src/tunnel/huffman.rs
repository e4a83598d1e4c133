//! HPACK's Huffman code (RFC 7541, appendix B), decoding only: what we send
//! ourselves is too short to gain from it.
//!
//! The code is canonical, so the lengths alone define it.

/// Bits of each symbol's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
];

const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// For each code length: the symbols of that length lie in `symbols` from
/// `first` on, and all codes of that length, moved to the top of 32 bits, lie
/// below `end`.
struct Code {
    end: [u64; LONGEST + 1],
    start: [u64; LONGEST + 1],
    first: [usize; LONGEST + 1],
    symbols: [u8; 256],
}

const CODE: Code = {
    let mut code = Code {
        end: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        first: [0; LONGEST + 1],
        symbols: [0; 256],
    };
    let mut at = 0;
    let mut next = 0u64;
    let mut len = SHORTEST;
    while len <= LONGEST {
        code.start[len] = next;
        code.first[len] = at;
        let mut symbol = 0u8;
        loop {
            if LENGTHS[symbol as usize] as usize == len {
                code.symbols[at] = symbol;
                at += 1;
                next += 1 << (32 - len);
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        code.end[len] = next;
        len += 1;
    }
    // The one code that is left, thirty ones, is the end of string.
    assert!(at == 256 && next == (1 << 32) - (1 << 2));
    code
};

/// The bytes were not a Huffman-coded string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotHuffman;

/// Appends the decoded `input` to `output`: at most eight fifths as long.
pub(super) fn decode(input: &[u8], output: &mut Vec<u8>) -> Result<(), NotHuffman> {
    let mut input = input.iter();
    // `held` bits wait at the top of `bits`.
    let mut bits = 0u64;
    let mut held = 0;
    loop {
        while held <= 56
            && let Some(byte) = input.next()
        {
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        // What is missing reads as ones: the padding is the start of the end
        // of string, which no symbol's code is a part of.
        let window = (bits | u64::MAX.checked_shr(held).unwrap_or(0)) >> 32;
        let len = (SHORTEST..=LONGEST).find(|&len| window < CODE.end[len]);
        let Some(len) = len.filter(|&len| len <= held as usize) else {
            // The string ends in fewer than eight ones; a whole end of string
            // inside of it is an error.
            let padding = held < 8 && bits | (u64::MAX >> held) == u64::MAX;
            return if padding { Ok(()) } else { Err(NotHuffman) };
        };
        let nth = (window - CODE.start[len]) >> (32 - len);
        let symbol = usize::try_from(nth)
            .ok()
            .and_then(|nth| CODE.symbols.get(CODE.first[len] + nth))
            .ok_or(NotHuffman)?;
        output.push(*symbol);
        bits <<= len;
        held -= u32::try_from(len).map_err(|_too_long| NotHuffman)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(input: &[u8]) -> Vec<u8> {
        let mut output = vec![];
        let (mut bits, mut held) = (0u64, 0);
        for &byte in input {
            let len = usize::from(LENGTHS[usize::from(byte)]);
            let nth = CODE.symbols[CODE.first[len]..]
                .iter()
                .position(|symbol| *symbol == byte)
                .unwrap() as u64;
            let code = (CODE.start[len] >> (32 - len)) + nth;
            bits = bits << len | code;
            held += len;
            while held >= 8 {
                held -= 8;
                output.push((bits >> held & 0xff).try_into().unwrap());
            }
        }
        if held > 0 {
            let last = (bits << (8 - held) | 0xff >> held) & 0xff;
            output.push(last.try_into().unwrap());
        }
        output
    }

    #[test]
    fn decodes_the_examples_of_the_rfc() {
        for (coded, plain) in [
            (
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x64\x02", "302"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            let mut out = vec![];
            decode(coded, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), plain);
        }
    }

    #[test]
    fn every_symbol_comes_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut out = vec![];
        decode(&encode(&all), &mut out).unwrap();
        assert_eq!(out, all);
    }

    #[test]
    fn refuses_bad_padding_and_an_end_of_string() {
        let mut out = vec![];
        // "0" is five zeros; then zeros instead of ones.
        assert_eq!(decode(&[0b0000_0000], &mut out), Err(NotHuffman));
        // Eight ones or more are no padding.
        assert_eq!(decode(&[0b0000_0111, 0xff], &mut out), Err(NotHuffman));
        assert_eq!(decode(&[0xff; 4], &mut out), Err(NotHuffman));
        assert_eq!(decode(&[0xff], &mut out), Err(NotHuffman));
        assert_eq!(decode(&[], &mut out), Ok(()));
    }
}
