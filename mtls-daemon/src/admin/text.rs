//! How values that have a text form travel in JSON.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    text.parse().map_err(D::Error::custom)
}

/// The same, where there may be none.
pub(super) mod option {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(from)?
            .map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}

/// Connection ids: the digits that the access log shows.
pub(super) mod connection_id {
    use crate::trace::ConnectionId;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        id: &ConnectionId,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<ConnectionId, D::Error> {
        let digits = String::deserialize(from)?;
        ConnectionId::from_digits(&digits)
            .map_err(|_unusable| D::Error::custom("a connection id has 32 hexadecimal digits"))
    }
}

/// Points in time: RFC 3339, UTC, to the second or finer.
pub(super) mod time {
    use std::time::SystemTime;

    use jiff::Timestamp;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &SystemTime,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let time = Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
        to.collect_str(&time)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(SystemTime::from(time))
    }
}

/// The same, where there may be none.
pub(super) mod option_time {
    use std::time::SystemTime;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => time::serialize(at, to),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let time = text.map(|text| text.parse::<jiff::Timestamp>());
        let time = time.transpose().map_err(D::Error::custom)?;
        Ok(time.map(SystemTime::from))
    }
}

/// Durations: seconds, with fractions.
pub(super) mod seconds {
    use std::time::Duration;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        duration: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_f64(duration.as_secs_f64())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}
