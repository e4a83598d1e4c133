//! The wire format of Protocol Buffers, as far as an agent's messages go:
//! numbered fields that are integers or lengths of bytes, and others that are
//! skipped. Values are parts of the message, so that a key in it is not copied.

use thiserror::Error;

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Integer(u64),
    /// Bytes, a text, or a message within.
    Bytes(&'a [u8]),
    /// Of a kind that no field of ours has.
    Other,
}

/// The message is not what its own lengths say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the agent's message is damaged")]
pub(super) struct Damaged;

/// The fields of a message, in their order. Ends after the first damage.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Damaged>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Damaged> {
    const FIXED_64: u64 = 1;
    const LENGTH: u64 = 2;
    const FIXED_32: u64 = 5;
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Integer(varint(rest)?),
        FIXED_64 => take(rest, 8).map(|_| Value::Other)?,
        LENGTH => {
            let length = usize::try_from(varint(rest)?).or(Err(Damaged))?;
            Value::Bytes(take(rest, length)?)
        }
        FIXED_32 => take(rest, 4).map(|_| Value::Other)?,
        // Groups, which are long out of use, and what there is not.
        _ => return Err(Damaged),
    };
    match tag >> 3 {
        0 => Err(Damaged),
        number => Ok(Field { number, value }),
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Damaged)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(Damaged);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Damaged)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Damaged> {
    let (taken, after) = rest.split_at_checked(length).ok_or(Damaged)?;
    *rest = after;
    Ok(taken)
}

/// Adds a field of bytes.
pub(super) fn put_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Adds a field that is an integer.
pub(super) fn put_integer(message: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(message, number << 3);
    put_varint(message, value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            message.push(low & 0x7f);
            return;
        }
        message.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_examples_of_the_specification() {
        fn read(message: &[u8]) -> Result<Field<'_>, Damaged> {
            fields(message).next().unwrap()
        }
        let is = |number, value| Ok(Field { number, value });
        assert_eq!(read(&[0x08, 0x96, 0x01]), is(1, Value::Integer(150)));
        assert_eq!(read(b"\x12\x07testing"), is(2, Value::Bytes(b"testing")));
        assert_eq!(read(&[0x0d, 1, 2, 3, 4]), is(1, Value::Other));
        for damaged in [
            &b"\x12\x07test"[..],
            b"\x08",
            b"\x08\x80",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x00\x01",
            b"\x0b",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(read(damaged), Err(Damaged), "{damaged:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            number in 1_u64..1 << 29,
            integer: u64,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut message = Vec::new();
            put_integer(&mut message, number, integer);
            put_bytes(&mut message, number, &bytes);
            let read: Result<Vec<_>, _> = fields(&message).collect();
            let is = |value| Field { number, value };
            prop_assert_eq!(
                read,
                Ok(vec![is(Value::Integer(integer)), is(Value::Bytes(&bytes))])
            );
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = fields(&bytes).count();
        }
    }
}
