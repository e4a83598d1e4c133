//! A runtime's network configuration, with our entry at the end of its chain
//! and without it: texts in, texts out. What others wrote stays as it is, and
//! what is not understood is not touched.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::TYPE;

/// Why a configuration cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotUnderstood {
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error("it is not a table with a name and a list of plugins")]
    NoList,
    #[error("it is no plug-in's table with a name and a type")]
    NoPlugin,
    #[error("one of its plugins has no type")]
    NoType,
    #[error("nothing but mtls-daemon is in its list: the plug-in that makes the network is gone")]
    NothingElse,
}

/// The list with our entry as it should be; `None` if it is so already.
pub fn with(text: &str, entry: &Value) -> Result<Option<String>, NotUnderstood> {
    let mut list = read(text)?;
    let plugins = plugins(&mut list)?;
    if plugins.iter().all(is_ours) {
        return Err(NotUnderstood::NothingElse);
    }
    let mut ours = plugins.iter().filter(|plugin| is_ours(plugin));
    if ours.next() == Some(entry) && ours.next().is_none() {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(entry.clone());
    Ok(Some(written(&list)))
}

/// The list without our entry; `None` if it has none.
pub fn without(
    text: &str,
    is_mine: impl Fn(&Value) -> bool,
) -> Result<Option<String>, NotUnderstood> {
    let mut list = read(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !(is_ours(plugin) && is_mine(plugin)));
    if plugins.is_empty() {
        return Err(NotUnderstood::NothingElse);
    }
    Ok((plugins.len() < before).then(|| written(&list)))
}

/// A single plug-in's configuration as a list of one, as runtimes read it.
pub fn list_of(text: &str) -> Result<String, NotUnderstood> {
    let plugin = read(text)?;
    let is_plugin = plugin["type"].is_string() && plugin["name"].is_string();
    if !is_plugin || is_ours(&plugin) {
        return Err(NotUnderstood::NoPlugin);
    }
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), json!([plugin]));
    Ok(written(&Value::Object(list)))
}

/// Our entry in it, if it is there.
pub fn entry_in(text: &str) -> Result<Option<Value>, NotUnderstood> {
    let mut list = read(text)?;
    Ok(plugins(&mut list)?.iter().find(|it| is_ours(it)).cloned())
}

fn read(text: &str) -> Result<Value, NotUnderstood> {
    serde_json::from_str(text).map_err(|error| NotUnderstood::Json(error.to_string()))
}

fn plugins(list: &mut Value) -> Result<&mut Vec<Value>, NotUnderstood> {
    if !list["name"].is_string() {
        return Err(NotUnderstood::NoList);
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.filter(|plugins| !plugins.is_empty());
    let plugins = plugins.ok_or(NotUnderstood::NoList)?;
    match plugins.iter().all(|plugin| plugin["type"].is_string()) {
        true => Ok(plugins),
        false => Err(NotUnderstood::NoType),
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == TYPE
}

fn written(list: &Value) -> String {
    format!("{list:#}\n")
}
