//! oned's documents as trees of plain text, for tests that change a word of a recorded one and for those that poison
//! every word of it in turn.
//!
//! Deliberately not the parser of the product: a test must be able to write what that parser refuses. What is read here
//! is written back byte for byte.

use std::fmt::Write;

/// A document that is not in oned's form.
#[derive(Debug, thiserror::Error)]
#[error("not a document of oned's, at byte {at}: {what}")]
pub struct XmlError {
    at: usize,
    what: &'static str,
}

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A child.
    Element(Element),
    /// Text as it stands in the document, with its entities.
    Text(String),
    /// The inside of a CDATA section.
    Cdata(String),
}

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Everything between the name and the end of the start tag.
    pub attributes: String,
    /// What it holds.
    pub nodes: Vec<Node>,
    /// Whether it is written `<A/>` while it holds nothing.
    pub short: bool,
}

impl Element {
    /// An element with text in a CDATA section, as oned writes the values of templates.
    pub fn value(name: &str, text: &str) -> Self {
        let mut element =
            Element { name: name.to_owned(), attributes: String::new(), nodes: Vec::new(), short: false };
        element.nodes.push(Node::Cdata(text.to_owned()));
        element
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] for anything that oned does not write: a prologue, a comment, crossed tags.
    pub fn parse(text: &str) -> Result<Element, XmlError> {
        let mut scanner = Scanner { text, at: 0 };
        let root = scanner.element()?;
        match scanner.rest().trim() {
            "" => Ok(root),
            _ => Err(scanner.error("something after the root")),
        }
    }

    /// The document's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let _ = write!(text, "<{}{}", self.name, self.attributes);
        if self.short && self.nodes.is_empty() {
            text.push_str("/>");
            return;
        }
        text.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.write(text),
                Node::Text(raw) => text.push_str(raw),
                Node::Cdata(inside) => {
                    let _ = write!(text, "<![CDATA[{}]]>", inside.replace("]]>", "]]]]><![CDATA[>"));
                }
            }
        }
        let _ = write!(text, "</{}>", self.name);
    }

    /// Its children.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) | Node::Cdata(_) => None,
        })
    }

    fn children_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) | Node::Cdata(_) => None,
        })
    }

    /// The first element at `path` (`VM/TEMPLATE/NIC/MAC`), over all branches.
    pub fn find(&self, path: &str) -> Option<&Element> {
        let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let mut named = self.children().filter(|child| child.name == name);
        match rest {
            None => named.next(),
            Some(rest) => named.find_map(|child| child.find(rest)),
        }
    }

    /// As [`find`](Element::find).
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Element> {
        let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let mut named = self.children_mut().filter(|child| child.name == name);
        match rest {
            None => named.next(),
            Some(rest) => named.find_map(|child| child.find_mut(rest)),
        }
    }

    /// Its own text, decoded.
    pub fn text(&self) -> String {
        self.nodes
            .iter()
            .map(|node| match node {
                Node::Element(_) => String::new(),
                Node::Text(raw) => unescape(raw),
                Node::Cdata(inside) => inside.clone(),
            })
            .collect()
    }

    /// Replaces what it holds by text, in a CDATA section where it had one.
    pub fn set_text(&mut self, text: &str) {
        let cdata = self.nodes.iter().any(|node| matches!(node, Node::Cdata(_)));
        self.nodes = match (text, cdata) {
            ("", false) => Vec::new(),
            (text, true) => vec![Node::Cdata(text.to_owned())],
            (text, false) => vec![Node::Text(escape(text))],
        };
    }

    /// Whether it holds text and nothing else.
    pub fn is_leaf(&self) -> bool {
        self.children().next().is_none()
    }

    /// The places of all leaves below it, in document order.
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut Vec::new(), &mut found);
        found
    }

    fn collect<'a>(&'a self, names: &mut Vec<&'a str>, steps: &mut Vec<usize>, found: &mut Vec<Leaf>) {
        for (index, child) in self.children().enumerate() {
            names.push(&child.name);
            steps.push(index);
            if child.is_leaf() {
                found.push(Leaf { path: names.join("/"), steps: steps.clone(), text: child.text() });
            } else {
                child.collect(names, steps, found);
            }
            names.pop();
            steps.pop();
        }
    }

    /// The element at a leaf's place.
    pub fn at(&mut self, leaf: &Leaf) -> Option<&mut Element> {
        let mut here = self;
        for step in &leaf.steps {
            here = here.children_mut().nth(*step)?;
        }
        Some(here)
    }
}

/// Where a leaf stands, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The names from the root's child on: `VM/TEMPLATE/NIC/MAC`.
    pub path: String,
    /// Its text, decoded.
    pub text: String,
    steps: Vec<usize>,
}

/// Text as it stands between tags.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescape(raw: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(raw.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error(&self, what: &'static str) -> XmlError {
        XmlError { at: self.at, what }
    }

    /// Everything up to `end`, which is passed over.
    fn until(&mut self, end: &str, what: &'static str) -> Result<&'a str, XmlError> {
        let (found, _) = self.rest().split_once(end).ok_or_else(|| self.error(what))?;
        self.at += found.len() + end.len();
        Ok(found)
    }

    fn element(&mut self) -> Result<Element, XmlError> {
        if !self.rest().starts_with('<') {
            return Err(self.error("no start tag"));
        }
        self.at += 1;
        let tag = self.until(">", "a start tag without end")?;
        let (tag, short) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name = tag.split_ascii_whitespace().next().unwrap_or_default();
        if name.is_empty() || name.starts_with(['!', '?', '/']) {
            return Err(self.error("no name in a start tag"));
        }
        let attributes = tag.get(name.len()..).unwrap_or_default().to_owned();
        let mut element = Element { name: name.to_owned(), attributes, nodes: Vec::new(), short };
        if short {
            return Ok(element);
        }
        loop {
            if let Some(end) = self.rest().strip_prefix("</") {
                if !end.starts_with(&format!("{name}>")) {
                    return Err(self.error("an end tag of another element"));
                }
                self.at += name.len() + 3;
                return Ok(element);
            }
            element.nodes.push(self.node()?);
        }
    }

    fn node(&mut self) -> Result<Node, XmlError> {
        const CDATA: &str = "<![CDATA[";
        if self.rest().starts_with(CDATA) {
            self.at += CDATA.len();
            return Ok(Node::Cdata(self.until("]]>", "a CDATA section without end")?.to_owned()));
        }
        if self.rest().starts_with('<') {
            return Ok(Node::Element(self.element()?));
        }
        let (text, _) = self.rest().split_once('<').ok_or_else(|| self.error("no end tag"))?;
        self.at += text.len();
        Ok(Node::Text(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<A><B/><C></C><D><![CDATA[x < y]]></D><E>1</E><E k='v'>a &amp; b</E></A>";

    #[test]
    fn what_is_read_is_written_back() {
        assert_eq!(Element::parse(TEXT).unwrap().render(), TEXT);
        for entry in std::fs::read_dir(crate::recorded::data().join("requests")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let root = Element::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(root.render(), text, "{}", path.display());
            assert!(root.leaves().len() > 100, "{}", path.display());
        }
    }

    #[test]
    fn leaves_are_found_read_and_changed() {
        let mut root = Element::parse(TEXT).unwrap();
        let leaves = root.leaves();
        let texts: Vec<(&str, &str)> = leaves.iter().map(|l| (l.path.as_str(), l.text.as_str())).collect();
        assert_eq!(texts, [("B", ""), ("C", ""), ("D", "x < y"), ("E", "1"), ("E", "a & b")]);
        root.at(&leaves[2]).unwrap().set_text("]]>");
        root.at(&leaves[4]).unwrap().set_text("<&>");
        assert_eq!(root.find("D").unwrap().text(), "]]>");
        let again = Element::parse(&root.render()).unwrap();
        assert_eq!(again.leaves()[4].text, "<&>");
        assert_eq!(again.find("D").unwrap().text(), "]]>");
    }

    #[test]
    fn crossed_and_unfinished_tags_are_refused() {
        for text in ["", "<A>", "<A><B></A></B>", "<A/><B/>", "<?xml?><A/>", "<A><![CDATA[</A>"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
