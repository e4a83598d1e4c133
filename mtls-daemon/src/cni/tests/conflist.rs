//! What others wrote stays.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::conflist::{NotUnderstood, entry_in, list_of, with, without};

fn entry() -> Value {
    json!({"type": "mtls-daemon", "socket": "/run/mtls-daemon/cni.sock", "exclude": []})
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn calico() -> Value {
    json!({
        "name": "k8s-pod-network", "cniVersion": "1.0.0", "disableCheck": true,
        "plugins": [
            {"type": "calico", "mtu": 0, "policy": {"type": "k8s"}, "ipam": {"ranges": [[{"subnet": "10.0.0.0/16"}]]}},
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
        ],
    })
}

#[test]
fn the_entry_stands_behind_those_that_make_the_network() {
    let list = with(&calico().to_string(), &entry()).unwrap().unwrap();
    let mut expected = calico();
    expected["plugins"].as_array_mut().unwrap().push(entry());
    assert_eq!(value(&list), expected);
    assert_eq!(entry_in(&list), Ok(Some(entry())));
    assert_eq!(with(&list, &entry()), Ok(None), "it is there already");
}

#[test]
fn an_entry_of_an_earlier_configuration_is_brought_up_to_date() {
    let list = with(&calico().to_string(), &entry()).unwrap().unwrap();
    let mut other = entry();
    other["exclude"] = json!(["infra"]);
    let newer = with(&list, &other).unwrap().unwrap();
    assert_eq!(value(&newer)["plugins"].as_array().unwrap().len(), 3);
    assert_eq!(entry_in(&newer), Ok(Some(other)));
    // Another daemon's stays when this one goes.
    assert_eq!(without(&newer, |_| false), Ok(None));
}

#[test]
fn what_is_not_understood_is_not_touched() {
    for (bad, why) in [
        (json!({}), NotUnderstood::NoList),
        (json!([]), NotUnderstood::NoList),
        (json!({"name": "x", "plugins": []}), NotUnderstood::NoList),
        (
            json!({"plugins": [{"type": "bridge"}]}),
            NotUnderstood::NoList,
        ),
        (
            json!({"name": "x", "plugins": [{"bridge": "b"}]}),
            NotUnderstood::NoType,
        ),
        (
            json!({"name": "x", "plugins": [entry()]}),
            NotUnderstood::NothingElse,
        ),
    ] {
        assert_eq!(with(&bad.to_string(), &entry()), Err(why), "{bad}");
    }
    assert!(matches!(
        with("{\"name\":", &entry()),
        Err(NotUnderstood::Json(_))
    ));
    assert_eq!(list_of(&calico().to_string()), Err(NotUnderstood::NoPlugin));
    assert_eq!(list_of(&entry().to_string()), Err(NotUnderstood::NoPlugin));
}

#[test]
fn a_single_plug_in_is_a_list_of_one() {
    let conf = json!({"cniVersion": "0.4.0", "name": "net", "type": "bridge", "ipam": {}});
    let list = list_of(&conf.to_string()).unwrap();
    let expected = json!({"cniVersion": "0.4.0", "name": "net", "plugins": [conf]});
    assert_eq!(value(&list), expected);
}

/// Any JSON, a few levels deep.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\\u{e9}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            table(inner).prop_map(Value::from),
        ]
    })
}

fn table(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-zA-Z.]{1,6}", inner, 0..4)
        .prop_map(|entries| entries.into_iter().collect())
}

fn list() -> impl Strategy<Value = Value> {
    let plugin = (table(anything()), "[a-z]{1,8}").prop_map(|(mut plugin, kind)| {
        plugin.insert("type".to_owned(), kind.into());
        Value::from(plugin)
    });
    let plugins = prop::collection::vec(plugin, 1..5);
    (table(anything()), "[a-z]{1,8}", plugins).prop_map(|(mut list, name, plugins)| {
        list.insert("name".to_owned(), name.into());
        list.insert("plugins".to_owned(), plugins.into());
        Value::from(list)
    })
}

proptest! {
    #[test]
    fn what_is_added_and_taken_away_leaves_no_trace(list in list()) {
        let added = with(&list.to_string(), &entry()).unwrap().unwrap();
        prop_assert_eq!(with(&added, &entry()).unwrap(), None);
        let removed = without(&added, |_| true).unwrap().unwrap();
        prop_assert_eq!(&value(&removed), &list);
        prop_assert_eq!(without(&removed, |_| true).unwrap(), None);
    }
}
