//! XML text to a small tree that remembers where each attribute value stands.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use super::XmlError;

/// Longest text that is read, in bytes: libvirt's own limit for a string on the wire (`REMOTE_STRING_MAX`).
pub const SIZE_LIMIT: usize = 4 << 20;
/// Deepest nesting; libvirt's schema needs about ten levels, a long chain of backing files a few dozen.
pub const DEPTH_LIMIT: usize = 256;
/// Most elements; a guest with every PCI slot filled has some thousands.
pub const ELEMENT_LIMIT: usize = 65_536;

/// Most attributes of one element: each is compared with those before it.
const ATTRIBUTE_LIMIT: usize = 256;

/// An attribute and the place of its value, without the quotes, in the text.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    pub name: &'a str,
    pub value: Cow<'a, str>,
    pub span: Range<usize>,
}

/// An element; `text` is its own character data, without that of its children, and `inner` the place of all between its
/// tags.
#[derive(Debug, Default)]
pub(super) struct Element<'a> {
    pub name: Cow<'a, str>,
    pub attributes: Vec<Attribute<'a>>,
    pub text: String,
    pub inner: Range<usize>,
    pub children: Vec<Element<'a>>,
}

impl<'a> Element<'a> {
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|a| a.name == name)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.attribute(name).map(|a| a.value.as_ref())
    }

    pub fn children<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Element<'a>> {
        self.children.iter().filter(move |c| c.name == name)
    }

    pub fn child(&self, name: &str) -> Option<&Element<'a>> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The trimmed text of the first child of that name.
    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.trim())
    }

    /// The children of all children of that name: oned writes `<devices>` more than once.
    pub fn grandchildren<'e>(
        &'e self,
        parent: &'e str,
        name: &'e str,
    ) -> impl Iterator<Item = &'e Element<'a>> {
        self.children(parent).flat_map(move |p| p.children(name))
    }
}

/// Reads a whole document; the root is returned.
pub(super) fn parse(xml: &str) -> Result<Element<'_>, XmlError> {
    if xml.len() > SIZE_LIMIT {
        return Err(XmlError::TooMuch { what: "bytes of XML", limit: SIZE_LIMIT });
    }
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<Element<'_>> = Vec::new();
    let mut root = None;
    let mut elements = 0;
    loop {
        let at = reader.buffer_position();
        let event = reader
            .read_event()
            .map_err(|e| XmlError::Malformed { at: reader.error_position(), reason: e.to_string() })?;
        match event {
            Event::Start(start) => {
                count(&mut elements, open.len())?;
                let mut element = element(xml, &start, at)?;
                element.inner = position(reader.buffer_position())..0;
                open.push(element);
            }
            Event::Empty(start) => {
                count(&mut elements, open.len())?;
                let leaf = element(xml, &start, at)?;
                close(leaf, &mut open, &mut root, at)?;
            }
            Event::End(_) => match open.pop() {
                Some(mut done) => {
                    done.inner.end = position(at);
                    close(done, &mut open, &mut root, at)?;
                }
                None => return Err(malformed(at, "an end tag without its start tag")),
            },
            Event::Text(text) => append(&mut open, &text.xml10_content(), at)?,
            Event::CData(data) => append(&mut open, &data.xml10_content(), at)?,
            Event::GeneralRef(name) => {
                let character = name.resolve_char_ref().map_err(|e| malformed(at, &e.to_string()))?;
                match (character, resolve_predefined_entity(&name)) {
                    (Some(c), _) => append(&mut open, c.encode_utf8(&mut [0; 4]), at)?,
                    (None, Some(text)) => append(&mut open, text, at)?,
                    (None, None) => return Err(forbidden(at, "an entity of its own")),
                }
            }
            Event::DocType(_) => return Err(forbidden(at, "a document type")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof if open.is_empty() => {
                return root.ok_or_else(|| malformed(at, "no element at all"));
            }
            Event::Eof => return Err(malformed(at, "the text ends inside an element")),
        }
    }
}

/// A place in the text, which is shorter than [`SIZE_LIMIT`].
fn position(at: u64) -> usize {
    usize::try_from(at).unwrap_or(SIZE_LIMIT)
}

fn malformed(at: u64, reason: &str) -> XmlError {
    XmlError::Malformed { at, reason: reason.to_owned() }
}

fn forbidden(at: u64, what: &'static str) -> XmlError {
    XmlError::Forbidden { at, what }
}

fn count(elements: &mut usize, depth: usize) -> Result<(), XmlError> {
    *elements += 1;
    if *elements > ELEMENT_LIMIT {
        return Err(XmlError::TooMuch { what: "elements", limit: ELEMENT_LIMIT });
    }
    if depth >= DEPTH_LIMIT {
        return Err(XmlError::TooMuch { what: "levels", limit: DEPTH_LIMIT });
    }
    Ok(())
}

fn close<'a>(
    done: Element<'a>,
    open: &mut [Element<'a>],
    root: &mut Option<Element<'a>>,
    at: u64,
) -> Result<(), XmlError> {
    match (open.last_mut(), root.is_some()) {
        (Some(parent), _) => parent.children.push(done),
        (None, false) => *root = Some(done),
        (None, true) => return Err(malformed(at, "a second root element")),
    }
    Ok(())
}

fn append(open: &mut [Element<'_>], text: &str, at: u64) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(malformed(at, "text outside the root element")),
    }
    Ok(())
}

fn element<'a>(xml: &'a str, start: &BytesStart<'a>, at: u64) -> Result<Element<'a>, XmlError> {
    let whole = slice_of(xml, start).ok_or_else(|| malformed(at, "unreadable tag"))?;
    let tag = xml.get(whole.clone()).unwrap_or_default();
    let name_length = start.name().0.len();
    let mut found =
        Element { name: Cow::Borrowed(tag.get(..name_length).unwrap_or_default()), ..Element::default() };
    for attribute in quick_xml::events::attributes::Attributes::new(tag, name_length) {
        let attribute = attribute.map_err(|e| malformed(at, &e.to_string()))?;
        if found.attributes.len() >= ATTRIBUTE_LIMIT {
            return Err(XmlError::TooMuch { what: "attributes", limit: ATTRIBUTE_LIMIT });
        }
        let value =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|e| malformed(at, &e.to_string()))?;
        let span = slice_of(xml, &attribute.value).ok_or_else(|| malformed(at, "unreadable value"))?;
        found.attributes.push(Attribute { name: attribute.key.0, value, span });
    }
    Ok(found)
}

/// Where `part` lies in `xml`, if it is a slice of it: the parser borrows, it does not copy.
fn slice_of(xml: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(xml.as_ptr().addr())?;
    let range = start..start + part.len();
    (xml.get(range.clone())? == part).then_some(range)
}
