//! Bytes that nobody should send: each ends in an error that says where, and none in a panic or in memory spent.

use proptest::prelude::*;

use crate::document::{Envelope, Limits, VmDocument, XmlFault, parse, parse_within};

fn fault(text: impl AsRef<[u8]>) -> XmlFault {
    match parse(text.as_ref()) {
        Err(error) => error.fault,
        Ok(root) => panic!("{} was accepted", root.render()),
    }
}

fn nested(depth: usize) -> String {
    format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth))
}

#[test]
fn nesting_has_a_limit() {
    assert!(parse(nested(64).as_bytes()).is_ok());
    assert_eq!(fault(nested(65)), XmlFault::TooDeep(64));
    assert_eq!(fault("<a>".repeat(1_000_000)), XmlFault::TooDeep(64));
}

#[test]
fn entities_cannot_be_defined() {
    let laughs = "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;\">]><l>&b;</l>";
    assert_eq!(fault(laughs), XmlFault::Doctype);
    assert_eq!(fault("<!DOCTYPE l SYSTEM \"file:///etc/passwd\"><l/>"), XmlFault::Doctype);
    assert_eq!(fault("<l>&b;</l>"), XmlFault::Entity("b".into()));
    for bad in ["#x0", "#0", "#xD800", "#x110000", "#-1", "#x+41", "#", "#x", "#99999999999", "#xFFFF"] {
        assert_eq!(fault(format!("<l>&{bad};</l>")), XmlFault::Entity(bad.into()), "{bad}");
        assert_eq!(fault(format!("<l a='&{bad};'/>")), XmlFault::Entity(bad.into()), "{bad}");
    }
    assert!(matches!(fault("<l>&amp</l>"), XmlFault::Syntax(_)));
    assert_eq!(parse(b"<l a='&#65;&lt;'>&#x41;&amp;&apos;</l>").unwrap().text(), "A&'");
}

#[test]
fn size_and_number_have_limits() {
    let mut huge = b"<a>".to_vec();
    huge.resize(Limits::DEFAULT.bytes + 1, b'x');
    assert_eq!(fault(&huge), XmlFault::TooLarge(Limits::DEFAULT.bytes));
    let small = Limits { nodes: 100, ..Limits::DEFAULT };
    for piece in ["<b/>", "<![CDATA[]]>", "x&amp;", "<b>c</b>"] {
        let many = format!("<a>{}</a>", piece.repeat(101));
        let error = parse_within(many.as_bytes(), small).unwrap_err();
        assert_eq!(error.fault, XmlFault::TooMany(100), "{piece}");
        assert_eq!(error.place.split('/').next(), Some("a"), "{piece}");
    }
    let attributes: String = (0..65).map(|n| format!(" a{n}=''")).collect();
    assert_eq!(fault(format!("<a{attributes}/>")), XmlFault::TooManyAttributes(64));
    // A huge attribute costs its own size and no more.
    let long = format!("<a b='{}'/>", "x".repeat(4 << 20));
    assert_eq!(parse(long.as_bytes()).unwrap().attribute("b").unwrap().len(), 4 << 20);
}

#[test]
fn only_characters_of_xml_in_utf8() {
    assert_eq!(fault(b"<a>\xff</a>"), XmlFault::NotUtf8);
    assert_eq!(fault(b"<a>\xed\xa0\x80</a>"), XmlFault::NotUtf8);
    assert_eq!(fault("<?xml version='1.0' encoding='UTF-16'?><a/>"), XmlFault::NotUtf8);
    for c in ['\0', '\u{1}', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
        assert_eq!(fault(format!("<a>{c}</a>")), XmlFault::Character(u32::from(c)));
        assert_eq!(fault(format!("<a><![CDATA[{c}]]></a>")), XmlFault::Character(u32::from(c)));
    }
    let declared = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<a>\t\r\n\u{e9}\u{1f600}</a>\n";
    assert_eq!(parse(declared.as_bytes()).unwrap().text(), "\t\n\u{e9}\u{1f600}");
}

#[test]
fn one_root_and_nothing_beside_it() {
    for text in ["<a/><b/>", "<a/>x", "x<a/>", "<a/><![CDATA[x]]>", "<a></a></a>", "&amp;<a/>"] {
        assert!(matches!(fault(text), XmlFault::BesideRoot | XmlFault::Syntax(_)), "{text}");
    }
    assert_eq!(fault(""), XmlFault::Empty);
    assert_eq!(fault(" <!-- nothing --> "), XmlFault::Empty);
    for text in ["<a", "<a>", "<a></b>", "<a b></a>", "<a b=c/>", "<a b='1' b='2'/>", "<a b='<'/>", "< a/>"] {
        assert!(matches!(fault(text), XmlFault::Syntax(_) | XmlFault::Name(_)), "{text}");
    }
    for text in ["<1/>", "<a\u{e9}/>", "<a$/>", "<a -b='c'/>"] {
        assert!(matches!(fault(text), XmlFault::Name(_)), "{text}");
    }
}

#[test]
fn a_section_cannot_be_closed_from_within() {
    let tricks = "<a><![CDATA[x]]]]><![CDATA[>y]]><b/></a>";
    let root = parse(tricks.as_bytes()).unwrap();
    assert_eq!((root.text().as_ref(), root.elements().count()), ("x]]>y", 1));
    assert_eq!(root.render(), tricks);
    assert!(matches!(fault("<a>x]]>y</a>"), XmlFault::Syntax(_)));
    assert!(matches!(fault("<a><![CDATA[x]]</a>"), XmlFault::Syntax(_)));
}

#[test]
fn errors_say_where() {
    let error = parse(b"<VM><TEMPLATE><NIC>&x;</NIC></TEMPLATE></VM>").unwrap_err();
    assert_eq!(error.place, "VM/TEMPLATE/NIC");
    assert_eq!(error.offset, 19);
    let shown = error.to_string();
    assert_eq!(shown, "in VM/TEMPLATE/NIC at byte 19: unknown entity or character reference &x;");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let _ = Envelope::parse(&bytes);
    }

    #[test]
    fn no_markup_panics(text in "([<>/&;!?='\"\\[\\]A-C \n\r-]|<a>|</a>|<!\\[CDATA\\[|\\]\\]>|&amp;|<VM>|</VM>|<ID>){0,60}") {
        if let Ok(root) = parse(text.as_bytes()) {
            // Whatever is accepted can be written and is then accepted again.
            let written = root.render();
            prop_assert_eq!(parse(written.as_bytes()).unwrap(), root);
        }
        let _ = VmDocument::parse_tolerant(text.as_bytes());
    }
}
