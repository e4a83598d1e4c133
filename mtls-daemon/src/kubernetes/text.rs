//! Things as the texts that people know them by, in what is saved.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer};

pub(super) fn serialize<T: Display, S: Serializer>(
    things: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(things.iter().map(ToString::to_string))
}

pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    let things = texts.iter().map(|text| text.parse());
    things
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}
