//! The reduced VM document that network drivers get (contract VNM 1.4).
//!
//! The stock driver copies the selected nodes one by one, each with a parent chain of its own. The recorded documents
//! are reproduced byte for byte, since the network drivers that read them may be other people's.

use std::sync::Arc;

use super::envelope::Envelope;
use super::tree::{Element, Node};
use super::vm::VmDocument;

/// What is copied, in this order: a path below `VM`, and whether only elements with a `VN_MAD` count.
const SELECTED: [(&[&str], bool); 12] = [
    (&["ID"], false),
    (&["DEPLOY_ID"], false),
    (&["TEMPLATE", "CONTEXT"], false),
    (&["USER_TEMPLATE"], false),
    (&["TEMPLATE", "SECURITY_GROUP_RULE"], false),
    (&["HISTORY_RECORDS", "HISTORY", "HOSTNAME"], false),
    (&["HISTORY_RECORDS", "HISTORY", "HID"], false),
    (&["HISTORY_RECORDS", "HISTORY", "DS_ID"], false),
    (&["HISTORY_RECORDS", "HISTORY", "VM_MAD"], false),
    (&["TEMPLATE", "NIC"], true),
    (&["TEMPLATE", "NIC_ALIAS"], true),
    (&["TEMPLATE", "PCI"], true),
];

/// The reduced document of a request, ready to be encoded for the standard input of a network step.
pub fn reduced_vm(envelope: &Envelope) -> Vec<u8> {
    reduce(&envelope.vm).render().into_bytes()
}

/// The reduced document as a tree.
pub fn reduce(vm: &VmDocument) -> Element {
    let mut reduced = Element::new("VM");
    for (path, networked) in SELECTED {
        let found = vm.element().all(path);
        let wanted = |e: &&Arc<Element>| !networked || e.first("VN_MAD").is_some();
        let parents = path.split_last().map_or(&[][..], |(_, parents)| parents);
        for element in found.into_iter().filter(wanted) {
            let copy = parents.iter().rev().fold(Arc::clone(element), |inner, name| {
                Arc::new(Element::new(*name).with(Node::Element(inner)))
            });
            reduced.push(Node::Element(copy));
        }
    }
    reduced
}
