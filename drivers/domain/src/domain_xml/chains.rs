//! The disks' chains, out of live XML.

use super::XmlError;
use super::facts::source;
use super::tree::{Element, parse};
use crate::disk::{Chain, Layer, Mirror, MirrorKind};

/// The chains of all disks of a live domain, in document order.
///
/// # Errors
/// As [`facts`](super::facts()); or a disk has no target, by which alone it can be asked for.
pub fn chains(xml: &str) -> Result<Vec<Chain>, XmlError> {
    let root = parse(xml)?;
    if root.name != "domain" {
        return Err(XmlError::NotADomain(root.name.to_string()));
    }
    root.grandchildren("devices", "disk").map(chain).collect()
}

fn chain(disk: &Element<'_>) -> Result<Chain, XmlError> {
    let target = disk.child("target").and_then(|t| t.value("dev")).filter(|t| !t.is_empty());
    let target = target.ok_or(XmlError::Missing("target of a disk"))?.to_owned();
    let mut layers = Vec::new();
    // The first layer's format is the driver's; each further one has an element of its own.
    let mut at = disk.child("source").map(|_| disk);
    while let Some(element) = at {
        layers.push(layer(element)?);
        // An empty element ends a chain that is known to its end, none at all one that is not.
        at = element.child("backingStore").filter(|below| below.child("source").is_some());
    }
    Ok(Chain { target, layers, mirror: disk.child("mirror").and_then(mirror) })
}

fn layer(element: &Element<'_>) -> Result<Layer, XmlError> {
    let format = match element.child("driver") {
        Some(driver) => driver.value("type"),
        None => element.child("format").and_then(|f| f.value("type")),
    };
    // The first layer's number stands with its source, every other one's with its own element.
    let index = element.child("source").and_then(|s| s.value("index")).or_else(|| element.value("index"));
    let index = index.map(|text| {
        text.parse().map_err(|_| XmlError::Value {
            what: "index of a disk's source",
            value: text.to_owned(),
            accepted: "a number",
        })
    });
    Ok(Layer { source: source(element), format: format.map(str::to_owned), index: index.transpose()? })
}

fn mirror(element: &Element<'_>) -> Option<Mirror> {
    let kind = match element.value("job") {
        Some("active-commit") => MirrorKind::ActiveCommit,
        // Before there were two kinds, libvirt named none.
        Some("copy") | None => MirrorKind::Copy,
        Some(_) => return None,
    };
    Some(Mirror { kind, source: source(element), ready: element.value("ready") == Some("yes") })
}
