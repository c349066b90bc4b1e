//! Bytes to a tree: the one place that knows the XML crate.
//!
//! Accepted is what oned and libvirt write: UTF-8, elements, attributes, text, CDATA, the five predefined entities and
//! character references. Refused is what only an attacker or an accident would send: document type definitions (and with
//! them every entity bomb), other encodings, characters that XML 1.0 forbids, and anything beyond [`Limits`].

use std::sync::Arc;

use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::tree::{Element, Node};

/// How large a document may be before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole document.
    pub bytes: usize,
    /// Elements within one another.
    pub depth: usize,
    /// Elements, texts and CDATA sections in the whole document.
    pub nodes: usize,
    /// XML attributes of one element.
    pub attributes: usize,
}

impl Limits {
    /// For what oned and libvirt send. The largest recorded envelope has 12 KiB and 420 nodes, six deep; this leaves
    /// room for VMs with hundreds of interfaces, rules and snapshots.
    pub const DEFAULT: Limits = Limits { bytes: 8 << 20, depth: 64, nodes: 200_000, attributes: 64 };
}

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("in {place} at byte {offset}: {fault}")]
pub struct XmlError {
    /// The elements open at that point, outermost first, or "the document".
    pub place: String,
    /// Bytes from the start of the document.
    pub offset: u64,
    /// What is wrong.
    pub fault: XmlFault,
}

/// What can be wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlFault {
    /// More bytes than [`Limits::bytes`].
    #[error("the document is larger than {0} bytes")]
    TooLarge(usize),
    /// More than [`Limits::depth`] elements within one another.
    #[error("more than {0} elements within one another")]
    TooDeep(usize),
    /// More than [`Limits::nodes`] nodes.
    #[error("more than {0} elements and texts")]
    TooMany(usize),
    /// More than [`Limits::attributes`] XML attributes on one element.
    #[error("an element with more than {0} attributes")]
    TooManyAttributes(usize),
    /// Not UTF-8, or declared as something else.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// A document type definition.
    #[error("document type definitions are not accepted")]
    Doctype,
    /// An entity other than the five predefined ones, or a bad character reference.
    #[error("unknown entity or character reference &{0};")]
    Entity(String),
    /// A character that XML 1.0 does not allow (section 2.2).
    #[error("character U+{0:04X} is not allowed in XML")]
    Character(u32),
    /// A name that is none.
    #[error("{0:?} is not a name")]
    Name(String),
    /// Any other violation of the grammar.
    #[error("{0}")]
    Syntax(String),
    /// No root element.
    #[error("no root element")]
    Empty,
    /// Something besides one root element.
    #[error("text or elements beside the root element")]
    BesideRoot,
}

/// Parses a whole document and returns its root.
///
/// # Errors
/// [`XmlError`] for anything but one well-formed element within [`Limits::DEFAULT`]. Never panics.
pub fn parse(bytes: &[u8]) -> Result<Arc<Element>, XmlError> {
    parse_within(bytes, Limits::DEFAULT)
}

/// Like [`parse`], with other limits.
///
/// # Errors
/// As for [`parse`].
pub fn parse_within(bytes: &[u8], limits: Limits) -> Result<Arc<Element>, XmlError> {
    let start = |offset: usize, fault| XmlError {
        place: "the document".to_owned(),
        offset: u64::try_from(offset).unwrap_or(u64::MAX),
        fault,
    };
    if bytes.len() > limits.bytes {
        return Err(start(limits.bytes, XmlFault::TooLarge(limits.bytes)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| start(error.valid_up_to(), XmlFault::NotUtf8))?;
    // The byte order mark is no part of the document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(start(offset, XmlFault::Character(u32::from(c))));
    }
    Builder::new(limits).run(text)
}

/// The characters of XML 1.0 section 2.2; surrogates cannot occur in a `char`.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// A name as oned's and libvirt's documents use them: the ASCII part of XML's names.
fn name(text: &str) -> Result<String, XmlFault> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b':');
    let ok = text.len() <= 256
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if ok { Ok(text.to_owned()) } else { Err(XmlFault::Name(text.chars().take(80).collect())) }
}

/// The value of `&reference;`.
fn resolve(reference: &str) -> Result<char, XmlFault> {
    let number = |digits: &str, radix| {
        let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
        u32::from_str_radix(digits, radix).ok().filter(|_| plain).and_then(char::from_u32)
    };
    let found = match reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => match (reference.strip_prefix("#x"), reference.strip_prefix('#')) {
            (Some(hex), _) => number(hex, 16),
            (None, Some(decimal)) => number(decimal, 10),
            (None, None) => None,
        },
    };
    found.filter(|c| allowed(*c)).ok_or_else(|| XmlFault::Entity(reference.chars().take(80).collect()))
}

/// Line ends as XML 1.0 section 2.11 wants them seen.
fn newlines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Resolves the references in the value of an XML attribute; blanks become spaces (XML 1.0 section 3.3.3).
fn attribute_value(raw: &str) -> Result<String, XmlFault> {
    if raw.contains('<') {
        return Err(XmlFault::Syntax("'<' in the value of an attribute".into()));
    }
    let mut value = String::with_capacity(raw.len());
    let folded = newlines(raw);
    let mut rest = folded.as_str();
    while let Some((before, after)) = rest.split_once('&') {
        value.extend(before.chars().map(blank_to_space));
        let (reference, after) =
            after.split_once(';').ok_or_else(|| XmlFault::Entity(after.chars().take(80).collect()))?;
        value.push(resolve(reference)?);
        rest = after;
    }
    value.extend(rest.chars().map(blank_to_space));
    Ok(value)
}

fn blank_to_space(c: char) -> char {
    if matches!(c, '\t' | '\n') { ' ' } else { c }
}

/// The elements that are open, and the root once it is closed.
struct Builder {
    limits: Limits,
    open: Vec<Element>,
    root: Option<Arc<Element>>,
    nodes: usize,
}

impl Builder {
    fn new(limits: Limits) -> Self {
        Builder { limits, open: Vec::new(), root: None, nodes: 0 }
    }

    fn run(mut self, text: &str) -> Result<Arc<Element>, XmlError> {
        let mut reader = Reader::from_str(text);
        let config = reader.config_mut();
        config.check_end_names = true;
        config.allow_dangling_amp = false;
        loop {
            let offset = reader.buffer_position();
            let step = match reader.read_event() {
                Ok(Event::Eof) => break,
                Ok(event) => self.take(event),
                Err(error) => Err(XmlFault::Syntax(error.to_string())),
            };
            step.map_err(|fault| self.error(offset, fault))?;
        }
        let end = reader.buffer_position();
        if !self.open.is_empty() {
            let fault = XmlFault::Syntax("the document ends inside this element".into());
            return Err(self.error(end, fault));
        }
        let root = self.root.take();
        root.ok_or_else(|| self.error(end, XmlFault::Empty))
    }

    fn error(&self, offset: u64, fault: XmlFault) -> XmlError {
        let names: Vec<&str> = self.open.iter().map(Element::name).collect();
        let place = if names.is_empty() { "the document".to_owned() } else { names.join("/") };
        XmlError { place, offset, fault }
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), XmlFault> {
        match event {
            Event::Start(tag) => {
                let element = self.start(&tag)?;
                self.open.push(element);
                Ok(())
            }
            Event::Empty(tag) => {
                let element = self.start(&tag)?;
                self.close(element)
            }
            Event::End(_) => match self.open.pop() {
                Some(element) => self.close(element),
                None => Err(XmlFault::BesideRoot),
            },
            Event::Text(text) => {
                let source = newlines(&text.into_inner());
                if source.contains("]]>") {
                    return Err(XmlFault::Syntax("']]>' outside of a CDATA section".into()));
                }
                self.text(&source, &source)
            }
            Event::GeneralRef(reference) => {
                let reference = reference.into_inner();
                let mut buffer = [0; 4];
                let value = resolve(&reference)?.encode_utf8(&mut buffer);
                self.text(value, &format!("&{reference};"))
            }
            Event::CData(data) => {
                self.count()?;
                let parent = self.open.last_mut().ok_or(XmlFault::BesideRoot)?;
                parent.push(Node::CData(newlines(&data.into_inner())));
                Ok(())
            }
            Event::Decl(declaration) => match declaration.encoding() {
                None => Ok(()),
                Some(Ok(encoding)) if encoding.eq_ignore_ascii_case("utf-8") => Ok(()),
                Some(_) => Err(XmlFault::NotUtf8),
            },
            Event::DocType(_) => Err(XmlFault::Doctype),
            Event::Comment(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }

    fn count(&mut self) -> Result<(), XmlFault> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(XmlFault::TooMany(self.limits.nodes));
        }
        Ok(())
    }

    fn start(&mut self, tag: &BytesStart<'_>) -> Result<Element, XmlFault> {
        self.count()?;
        if self.root.is_some() {
            return Err(XmlFault::BesideRoot);
        }
        if self.open.len() >= self.limits.depth {
            return Err(XmlFault::TooDeep(self.limits.depth));
        }
        let mut element = Element::new(name(tag.name().as_ref())?);
        // The crate's own check for duplicates is quadratic; ours comes after the cap.
        for (index, attribute) in tag.attributes().with_checks(false).enumerate() {
            if index >= self.limits.attributes {
                return Err(XmlFault::TooManyAttributes(self.limits.attributes));
            }
            let Attribute { key, value } = attribute.map_err(|error| XmlFault::Syntax(error.to_string()))?;
            let key = name(key.as_ref())?;
            if element.attribute(&key).is_some() {
                return Err(XmlFault::Syntax(format!("attribute {key} twice")));
            }
            element = element.with_attribute(key, attribute_value(&value)?);
        }
        Ok(element)
    }

    fn close(&mut self, element: Element) -> Result<(), XmlFault> {
        let element = Arc::new(element);
        match self.open.last_mut() {
            Some(parent) => parent.push(Node::Element(element)),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn text(&mut self, value: &str, source: &str) -> Result<(), XmlFault> {
        match self.open.last_mut() {
            Some(parent) => {
                parent.push_text(value, source);
                // Pieces of one text count each: references arrive one by one.
                self.count()
            }
            None if source.trim().is_empty() => Ok(()),
            None => Err(XmlFault::BesideRoot),
        }
    }
}
