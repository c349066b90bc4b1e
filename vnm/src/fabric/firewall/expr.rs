//! The words of a rule as `nft` takes them in JSON (libnftables-json(5)), and only those that are used here.

use std::net::IpAddr;

use causeway_core::names::Mac;
use serde_json::{Value, json};

/// What a frame is, or has in it.
pub fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

/// So many bits from so many on behind the headers of Ethernet and IP.
pub fn transport(offset: u32, len: u32) -> Value {
    json!({"payload": {"base": "th", "offset": offset, "len": len}})
}

/// What the kernel knows of a frame.
pub fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

/// The left is the right, or one of the right.
pub fn is(left: Value, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right.into()}})
}

/// The left is not the right, and none of the right.
pub fn is_not(left: Value, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "!=", "left": left, "right": right.into()}})
}

/// Those bits of the left.
pub fn masked(left: Value, mask: impl Into<Value>) -> Value {
    json!({"&": [left, mask.into()]})
}

/// The left is none of these. Without a set, for each set has a name, and `nft` reads all of a table's before it does anything.
pub fn is_none<T: Into<Value>>(left: &Value, of: impl IntoIterator<Item = T>) -> Vec<Value> {
    of.into_iter().map(|one| is_not(left.clone(), one)).collect()
}

/// Any of these; of one alone no set is made.
pub fn any<T: Into<Value>>(of: impl IntoIterator<Item = T>) -> Value {
    let mut of: Vec<Value> = of.into_iter().map(Into::into).collect();
    match of.len() {
        1 => of.remove(0),
        _ => json!({"set": of}),
    }
}

/// Any of these Ethernet addresses.
pub fn any_mac<'a>(of: impl IntoIterator<Item = &'a Mac>) -> Value {
    any(of.into_iter().map(ToString::to_string))
}

/// From the first to the last.
pub fn range<T: Into<Value>>(first: T, last: T) -> Value {
    json!({"range": [first.into(), last.into()]})
}

/// An address where no header's field says that it is one.
pub fn number(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => json!(u32::from(address)),
        IpAddr::V6(address) => json!(format!("0x{:032x}", u128::from(address))),
    }
}

/// What is done with a frame by what stands in a map.
pub fn by_map(key: Value, map: &str) -> Value {
    json!({"vmap": {"key": key, "data": format!("@{map}")}})
}

/// The state of a frame's connection is one of these.
pub fn in_state(states: &[&str]) -> Value {
    json!({"match": {"op": "in", "left": connection("state"), "right": states}})
}

/// What the kernel knows of a frame's connection.
pub fn connection(key: &str) -> Value {
    json!({"ct": {"key": key}})
}

/// The mark of a frame's connection.
pub fn connection_mark() -> Value {
    connection("mark")
}

/// Marks the frame's connection, in those bits.
pub fn set_connection_mark(mark: u32, bits: u32) -> Value {
    let kept = masked(connection_mark(), !bits);
    json!({"mangle": {"key": connection_mark(), "value": {"|": [kept, mark]}}})
}

/// Marks the frame.
pub fn set_mark(mark: u32) -> Value {
    json!({"mangle": {"key": meta("mark"), "value": mark}})
}

/// Counts the frame's connection among those of that zone.
pub fn set_zone(zone: u16) -> Value {
    json!({"mangle": {"key": {"ct": {"key": "zone"}}, "value": zone}})
}

/// On with that chain, and back.
pub fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

/// On with that chain.
pub fn goto(chain: &str) -> Value {
    json!({"goto": {"target": chain}})
}

/// Back to where the chain was jumped to from.
pub fn back() -> Value {
    json!({"return": null})
}

/// The frame has passed this table.
pub fn accept() -> Value {
    json!({"accept": null})
}

/// The frame ends here.
pub fn drop() -> Value {
    json!({"drop": null})
}
