//! A parsed document as a small tree, and the way back to bytes.
//!
//! The tree keeps what makes a difference to the next reader (order of nodes, which text was CDATA, how a character was
//! escaped) and nothing else: comments and processing instructions are dropped. [`Element::render`] writes the form in
//! which the stock driver hands documents on, recorded byte for byte: no declaration, `<A/>` for an element without
//! children, everything else as it came.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// One piece of what lies between two tags.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Arc<Element>),
    /// Character data; never empty in a parsed document, and never next to another [`Node::Text`].
    Text(Text),
    /// The inside of a CDATA section, possibly empty (oned writes `<![CDATA[]]>` for an empty attribute).
    CData(String),
}

/// Character data together with the spelling it had.
#[derive(Clone)]
pub struct Text {
    value: String,
    /// The escaped form as it came, kept only where escaping the value anew would spell it otherwise.
    source: Option<String>,
}

impl Text {
    /// Character data from its value.
    pub fn new(value: impl Into<String>) -> Self {
        Text { value: value.into(), source: None }
    }

    /// The characters, entities resolved.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Appends a piece of a parsed document: its value and its spelling.
    pub(super) fn append(&mut self, value: &str, source: &str) {
        let plain = self.source.is_none() && escape(value, false) == source;
        if !plain {
            let sofar = self.source.get_or_insert_with(|| escape(&self.value, false).into_owned());
            sofar.push_str(source);
        }
        self.value.push_str(value);
    }

    fn render(&self, out: &mut String) {
        match &self.source {
            Some(source) => out.push_str(source),
            None => out.push_str(&escape(&self.value, false)),
        }
    }
}

/// Two texts are equal if they say the same, however they were spelled.
impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
impl Eq for Text {}

/// An element with its attributes and what lies inside it. Cloning shares the children.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    nodes: Vec<Node>,
}

impl Element {
    /// An empty element. `name` must be an XML name; it is written as it is.
    pub fn new(name: impl Into<String>) -> Self {
        Element { name: name.into(), attributes: Vec::new(), nodes: Vec::new() }
    }

    /// The same element with one more node at its end.
    #[must_use]
    pub fn with(mut self, node: Node) -> Self {
        self.push(node);
        self
    }

    /// The same element with one more attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Adds a node at the end.
    pub fn push(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Appends parsed character data, to the last node where that is text already.
    pub(super) fn push_text(&mut self, value: &str, source: &str) {
        if source.is_empty() {
            return;
        }
        if !matches!(self.nodes.last(), Some(Node::Text(_))) {
            self.nodes.push(Node::Text(Text::new("")));
        }
        if let Some(Node::Text(text)) = self.nodes.last_mut() {
            text.append(value, source);
        }
    }

    /// The element's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The XML attributes in document order (oned writes none; libvirt's documents are full of them).
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of an XML attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Everything inside, in document order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The child elements, in document order.
    pub fn elements(&self) -> impl Iterator<Item = &Arc<Element>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) | Node::CData(_) => None,
        })
    }

    /// The child elements of that name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Element>> {
        self.elements().filter(move |element| element.name == name)
    }

    /// The first child element of that name.
    pub fn first(&self, name: &str) -> Option<&Arc<Element>> {
        self.elements().find(|element| element.name == name)
    }

    /// Every element at the end of `path`, through *all* parents of each name: the reduced document of contract VNM 1.4
    /// has one `TEMPLATE` per NIC.
    pub fn all<'a>(&'a self, path: &[&str]) -> Vec<&'a Arc<Element>> {
        let mut found: Vec<&Arc<Element>> = Vec::new();
        if let Some((name, rest)) = path.split_first() {
            found.extend(self.elements().filter(|element| element.name == *name));
            for step in rest {
                found = found
                    .iter()
                    .flat_map(|parent| parent.elements().filter(|element| element.name == *step))
                    .collect();
            }
        }
        found
    }

    /// The character data directly inside this element, CDATA and text alike, untrimmed.
    pub fn text(&self) -> Cow<'_, str> {
        let mut pieces = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.value()),
            Node::CData(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => Cow::Borrowed(first),
            Some(second) => Cow::Owned([first, second].into_iter().chain(pieces).collect()),
        }
    }

    /// The trimmed text of the first child of that name, if there is any: oned writes an empty attribute where a value
    /// is unset, and both mean "absent".
    pub fn value(&self, name: &str) -> Option<String> {
        let text = self.first(name)?.text();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The document as text; see the module for its form.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.render_into(&mut out);
        out
    }

    fn render_into(&self, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attributes {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            out.push_str(&escape(value, true));
            out.push('"');
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.render_into(out),
                Node::Text(text) => text.render(out),
                Node::CData(text) => {
                    out.push_str("<![CDATA[");
                    // A section cannot hold its own end: close it between the brackets and open the next.
                    out.push_str(&text.replace("]]>", "]]]]><![CDATA[>"));
                    out.push_str("]]>");
                }
            }
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

/// Shows the shape and never a value: documents carry passwords, keys and scripts.
impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}> with {} children", self.name, self.elements().count())
    }
}

/// As for [`Element`]: the length of a text, not the text.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Element(element) => element.fmt(f),
            Node::Text(text) => text.fmt(f),
            Node::CData(text) => write!(f, "CDATA of {} bytes", text.len()),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text of {} bytes", self.value.len())
    }
}

/// Escapes character data; in an attribute value also quotes and the blanks that a reader would turn into spaces.
pub fn escape(text: &str, attribute: bool) -> Cow<'_, str> {
    let special =
        |c: char| matches!(c, '&' | '<' | '>' | '\r') || (attribute && matches!(c, '"' | '\n' | '\t'));
    if !text.contains(special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}
