//! What is written is read back as it was.

use std::sync::Arc;

use proptest::prelude::*;

use crate::document::tree::{Element, Node, Text};
use crate::document::{Limits, VmDocument, parse, parse_within, reduce};

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "([<>&'\"\\]\\[\t\n \r-]|\\]\\]>|&amp;|[\u{e9}\u{1f600}]){1,12}"]
}

/// Trees as the parser makes them: no empty text, no text next to a text.
fn element() -> impl Strategy<Value = Element> {
    let name = || prop_oneof!["[A-Z_][A-Z0-9_.-]{0,6}", Just("NIC".to_owned())];
    let attributes = || proptest::collection::btree_map("[a-z]{1,4}", text(), 0..3);
    let leaf = (name(), attributes()).prop_map(|(name, attributes)| {
        attributes.into_iter().fold(Element::new(name), |e, (k, v)| e.with_attribute(k, v))
    });
    leaf.prop_recursive(4, 30, 5, move |inner| {
        let node = prop_oneof![
            inner.prop_map(|element| Node::Element(Arc::new(element))),
            text().prop_map(|text| Node::Text(Text::new(text))),
            // A section holds line ends as the parser would have folded them, and is split where it must be.
            text().prop_map(|text| Node::CData(text.replace("]]>", "").replace('\r', ""))),
        ];
        (name(), proptest::collection::vec(node, 0..5)).prop_map(|(name, nodes)| {
            let mut element = Element::new(name);
            for node in nodes {
                let twice = matches!((&node, element.nodes().last()), (Node::Text(_), Some(Node::Text(_))));
                if !twice {
                    element.push(node);
                }
            }
            element
        })
    })
}

proptest! {
    #[test]
    fn trees_come_back(tree in element()) {
        let written = tree.render();
        let read = parse(written.as_bytes()).map_err(|e| TestCaseError::fail(format!("{written}: {e}")))?;
        prop_assert_eq!(read.as_ref(), &tree, "{}", written);
        prop_assert_eq!(read.render(), written);
    }

    #[test]
    fn limits_hold_for_every_tree(tree in element(), nodes in 1_usize..20, depth in 1_usize..4) {
        let limits = Limits { nodes, depth, ..Limits::DEFAULT };
        let written = tree.render();
        let all = parse(written.as_bytes()).unwrap();
        let (count, deepest) = measure(&all);
        match parse_within(written.as_bytes(), limits) {
            Ok(_) => prop_assert!(count <= nodes && deepest <= depth),
            // References are counted one by one, so that a text may count as several.
            Err(error) => prop_assert!(count > nodes || deepest > depth || written.contains('&'), "{}", error),
        }
    }
}

/// Nodes and depth of a tree.
fn measure(element: &Element) -> (usize, usize) {
    let mut count = 1;
    let mut deepest = 0;
    for node in element.nodes() {
        match node {
            Node::Element(inner) => {
                let (nodes, depth) = measure(inner);
                count += nodes;
                deepest = deepest.max(depth);
            }
            Node::Text(_) | Node::CData(_) => count += 1,
        }
    }
    (count, deepest + 1)
}

#[test]
fn a_text_keeps_its_spelling() {
    for text in
        ["<a>x &amp; y &#65;&quot;</a>", "<a b=\"1\">&gt;</a>", "<a><![CDATA[]]></a>", "<a>\n <b/>\n</a>"]
    {
        assert_eq!(parse(text.as_bytes()).unwrap().render(), text);
    }
    // What the stock driver's library folds, too.
    assert_eq!(parse(b"<a><b></b>\r\n<!-- c --></a>").unwrap().render(), "<a><b/>\n</a>");
    let section = Element::new("a").with(Node::CData("x]]>y".into()));
    assert_eq!(section.render(), "<a><![CDATA[x]]]]><![CDATA[>y]]></a>");
}

#[test]
fn the_reduced_document_has_a_parent_for_each_leaf() {
    let whole = "<VM><ID>7</ID><NAME>x</NAME><DEPLOY_ID></DEPLOY_ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID>\
        <VN_MAD>vxlan</VN_MAD></NIC><DISK><DISK_ID>0</DISK_ID></DISK><NIC><NIC_ID>1</NIC_ID></NIC>\
        <NIC_ALIAS><NIC_ID>2</NIC_ID><VN_MAD>fw</VN_MAD></NIC_ALIAS><NIC><NIC_ID>3</NIC_ID><VN_MAD>fw</VN_MAD>\
        </NIC></TEMPLATE><USER_TEMPLATE><A>1</A></USER_TEMPLATE><HISTORY_RECORDS><HISTORY><SEQ>4</SEQ>\
        <HOSTNAME>h</HOSTNAME><DS_ID>100</DS_ID></HISTORY></HISTORY_RECORDS></VM>";
    let reduced = "<VM><ID>7</ID><DEPLOY_ID/><USER_TEMPLATE><A>1</A></USER_TEMPLATE>\
        <HISTORY_RECORDS><HISTORY><HOSTNAME>h</HOSTNAME></HISTORY></HISTORY_RECORDS>\
        <HISTORY_RECORDS><HISTORY><DS_ID>100</DS_ID></HISTORY></HISTORY_RECORDS>\
        <TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>vxlan</VN_MAD></NIC></TEMPLATE>\
        <TEMPLATE><NIC><NIC_ID>3</NIC_ID><VN_MAD>fw</VN_MAD></NIC></TEMPLATE>\
        <TEMPLATE><NIC_ALIAS><NIC_ID>2</NIC_ID><VN_MAD>fw</VN_MAD></NIC_ALIAS></TEMPLATE></VM>";
    let vm = VmDocument::parse(whole.as_bytes()).unwrap();
    assert_eq!(reduce(&vm).render(), reduced);
    // Reducing once more changes nothing: what is needed is all there.
    let again = VmDocument::parse(reduced.as_bytes()).unwrap();
    assert_eq!(reduce(&again).render(), reduced);
    assert_eq!((again.nics.len(), again.aliases.len()), (2, 1));
}
