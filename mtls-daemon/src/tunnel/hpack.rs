//! HPACK (RFC 7541): header blocks of peers taken apart, with every size
//! bounded, and the few literals that we send.
//!
//! Our SETTINGS tell the peer to keep no dynamic table. Until it has seen them
//! it may use one of the default size, so the decoder knows it in full.

use std::collections::VecDeque;

use super::huffman;

/// The table that a peer may use before it has seen our SETTINGS.
const DEFAULT_TABLE: usize = 4_096;
/// What RFC 7541 adds for each field, in the table and in the list's size.
const OVERHEAD: usize = 32;

/// A name and its value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// Decodes the header blocks of one connection, in their order.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    /// What the peer keeps the table at.
    limit: usize,
    /// What our SETTINGS, as far as it has acknowledged them, allow.
    allowed: usize,
}

/// The block cannot be understood: the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Whether the fields of a block fit into the limit for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    All,
    /// The list was too long: its end was read, but not told.
    TooMany,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: DEFAULT_TABLE,
            allowed: DEFAULT_TABLE,
        }
    }

    /// The peer has acknowledged our SETTINGS: no dynamic table from here on.
    /// It has to say so itself in its next block. One that never used a table
    /// and forgets to say it does no harm, so the table is just emptied.
    pub(super) fn forbid_table(&mut self) {
        self.allowed = 0;
        self.limit = 0;
        self.evict();
    }

    /// Tells `field` each name and value of `block`, up to `list_limit` as the
    /// RFC counts it.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        list_limit: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<Fields, Broken> {
        let mut list = 0;
        let mut may_resize = true;
        let (mut name, mut value) = (Vec::new(), Vec::new());
        while let Some(&first) = block.first() {
            if first & 0xe0 == 0x20 {
                let limit = integer(&mut block, 5)?;
                if !may_resize || limit > self.allowed {
                    return Err(Broken);
                }
                self.limit = limit;
                self.evict();
                continue;
            }
            may_resize = false;
            name.clear();
            value.clear();
            let mut remember = false;
            if first & 0x80 != 0 {
                let (known, fixed) = self.entry(integer(&mut block, 7)?)?;
                name.extend_from_slice(known);
                value.extend_from_slice(fixed);
            } else {
                remember = first & 0x40 != 0;
                let at = integer(&mut block, if remember { 6 } else { 4 })?;
                if at == 0 {
                    string(&mut block, &mut name)?;
                } else {
                    name.extend_from_slice(self.entry(at)?.0);
                }
                string(&mut block, &mut value)?;
            }
            list += name.len() + value.len() + OVERHEAD;
            if list <= list_limit {
                field(&name, &value);
            }
            if remember {
                self.insert(&name, &value);
            }
        }
        Ok(if list <= list_limit {
            Fields::All
        } else {
            Fields::TooMany
        })
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Broken> {
        let nth = index.checked_sub(1).ok_or(Broken)?;
        if let Some((name, value)) = STATIC.get(nth) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(nth - STATIC.len()).ok_or(Broken)?;
        Ok((name, value))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + OVERHEAD;
        self.table.push_front((name.into(), value.into()));
        self.evict();
    }

    /// Drops the oldest entries until the table fits; an entry larger than the
    /// table empties it and is dropped itself, which is no error.
    fn evict(&mut self) {
        while self.size > self.limit
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + OVERHEAD;
        }
    }
}

/// An integer with a prefix of `bits` bits. None that we take is near 2^28.
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let (&first, mut rest) = block.split_first().ok_or(Broken)?;
    let mask = u8::MAX >> (8 - bits);
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (&byte, behind) = rest.split_first().ok_or(Broken)?;
            rest = behind;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Broken);
            }
        }
    }
    *block = rest;
    Ok(value)
}

fn string(block: &mut &[u8], into: &mut Vec<u8>) -> Result<(), Broken> {
    let coded = block.first().ok_or(Broken)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(Broken)?;
    *block = rest;
    if coded {
        huffman::decode(bytes, into).map_err(|huffman::NotHuffman| Broken)
    } else {
        into.extend_from_slice(bytes);
        Ok(())
    }
}

/// Says that our encoder keeps no table: due at the start of the next block
/// after a peer has made its table smaller than the default.
pub(super) fn put_no_table(block: &mut Vec<u8>) {
    block.push(0x20);
}

/// `:status`, from the static table where it is there.
pub(super) fn put_status(block: &mut Vec<u8>, status: u16) {
    match status {
        200 => block.push(0x88),
        400 => block.push(0x8c),
        _ => put_known(block, 8, status.to_string().as_bytes()),
    }
}

/// A field whose name is in the static table, at `name`, below 15.
pub(super) fn put_known(block: &mut Vec<u8>, name: u8, value: &[u8]) {
    debug_assert!(name < 15, "fits into the prefix");
    block.push(name);
    put_string(block, value);
}

/// A field with a name of its own.
pub(super) fn put_literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0x00);
    put_string(block, name);
    put_string(block, value);
}

fn put_string(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    if rest < 0x7f {
        #[expect(clippy::cast_possible_truncation, reason = "below 0x7f")]
        block.push(rest as u8);
    } else {
        block.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            block.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0x7f));
            rest >>= 7;
        }
        block.push(u8::try_from(rest).unwrap_or(0x7f));
    }
    block.extend_from_slice(bytes);
}

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests;
