//! Taking typed values out of an element, and the errors that say which value was not what it should be.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::parse::XmlError;
use super::tree::Element;
use crate::answer::Kind;
use crate::names::NameError;

/// Why a document is not usable: always the caller's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not well-formed, or larger than we accept.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Another document than the action needs.
    #[error("the root element is <{found}>, not <{expected}>")]
    Root {
        /// The root that came.
        found: String,
        /// The root that was needed.
        expected: &'static str,
    },
    /// Something that must be there is absent or empty.
    #[error("{path} is missing")]
    Missing {
        /// Where, with the element's number: `VM/TEMPLATE/NIC[NIC_ID=1]/MAC`.
        path: String,
    },
    /// A known attribute with a value that is none.
    #[error("{path} is {value:?}, not {accepted}")]
    Malformed {
        /// Where, with the element's number.
        path: String,
        /// The value as it came, cut to a printable length.
        value: String,
        /// The accepted form.
        accepted: String,
    },
}

impl DocumentError {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        Kind::Input
    }

    /// A malformed value at `path`.
    pub fn malformed(path: String, value: &str, accepted: impl fmt::Display) -> Self {
        DocumentError::Malformed {
            path,
            value: NameError::new("", value, "").value,
            accepted: accepted.to_string(),
        }
    }
}

/// A value with one accepted text form, as [`NameError`] has it for names.
pub trait Form: Sized {
    /// The accepted form, as it continues "... is not".
    const ACCEPTED: &'static str;
    /// The value, if `text` (trimmed, not empty) has the form.
    fn read(text: &str) -> Option<Self>;
}

/// Implements [`Form`] for unsigned numbers in plain decimal digits: `FromStr` alone would also take a leading plus.
macro_rules! decimal {
    ($($number:ty => $accepted:literal),+) => {$(
        impl Form for $number {
            const ACCEPTED: &'static str = $accepted;
            fn read(text: &str) -> Option<Self> {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                text.parse().ok().filter(|_| digits)
            }
        }
    )+};
}
decimal! {
    u8 => "a number up to 255",
    u16 => "a number up to 65535",
    u32 => "a number up to 4294967295",
    u64 => "a number up to 18446744073709551615",
    u128 => "a decimal number"
}

/// `YES` or `NO`, as every flag of a template is written; any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct YesNo(pub bool);

impl Form for YesNo {
    const ACCEPTED: &'static str = "YES or NO";
    fn read(text: &str) -> Option<Self> {
        match () {
            () if text.eq_ignore_ascii_case("yes") => Some(YesNo(true)),
            () if text.eq_ignore_ascii_case("no") => Some(YesNo(false)),
            () => None,
        }
    }
}

impl Form for std::net::Ipv4Addr {
    const ACCEPTED: &'static str = "an IPv4 address";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Form for std::net::Ipv6Addr {
    const ACCEPTED: &'static str = "an IPv6 address";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Form for std::net::IpAddr {
    const ACCEPTED: &'static str = "an IPv4 or IPv6 address";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Numbers with commas between: `0,100`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberList(pub Vec<u32>);

impl Form for NumberList {
    const ACCEPTED: &'static str = "numbers with commas between";
    fn read(text: &str) -> Option<Self> {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(u32::read)
            .collect::<Option<_>>()
            .map(NumberList)
    }
}

/// Reads one element: the values that are well-formed come out, the others are noted as faults and read as absent.
///
/// The caller decides what a fault means: a plan that builds something refuses the document, one that takes a VM away
/// goes on without the value.
pub(super) struct Reading<'a> {
    element: &'a Element,
    path: String,
    faults: &'a mut Vec<DocumentError>,
}

impl<'a> Reading<'a> {
    /// Reads `element`, which stands at `path`.
    pub fn new(element: &'a Element, path: String, faults: &'a mut Vec<DocumentError>) -> Self {
        Reading { element, path, faults }
    }

    /// Reads one of several elements of the same name; `key` is the child that numbers them.
    pub fn of_many(
        element: &'a Element,
        parent: &str,
        key: &str,
        faults: &'a mut Vec<DocumentError>,
    ) -> Self {
        let number = element.value(key).unwrap_or_else(|| "?".to_owned());
        let number = NameError::new("", &number, "").value;
        let path = format!("{parent}/{}[{key}={number}]", element.name());
        Reading::new(element, path, faults)
    }

    /// Where the child `name` stands.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Notes a fault.
    pub fn fault(&mut self, name: &str, value: &str, accepted: impl fmt::Display) {
        let path = self.path(name);
        self.faults.push(DocumentError::malformed(path, value, accepted));
    }

    /// Notes that something is missing.
    pub fn missing(&mut self, name: &str) {
        let path = self.path(name);
        self.faults.push(DocumentError::Missing { path });
    }

    /// The child's text as it is, without a check: for what is only shown or handed on.
    pub fn text(&self, name: &str) -> Option<String> {
        self.element.value(name)
    }

    /// A value with a [`Form`].
    pub fn get<T: Form>(&mut self, name: &str) -> Option<T> {
        let text = self.element.value(name)?;
        let value = T::read(&text);
        if value.is_none() {
            self.fault(name, &text, T::ACCEPTED);
        }
        value
    }

    /// Numbers with commas between. An empty text lists none, as oned writes it; one of commas and blanks alone is a fault,
    /// for whoever wrote it may have meant some.
    pub fn list(&mut self, name: &str) -> Vec<u32> {
        let text = self.element.first(name).map(|child| child.text().into_owned()).unwrap_or_default();
        match NumberList::read(&text) {
            Some(NumberList(list)) if text.is_empty() || !list.is_empty() => list,
            _ => {
                self.fault(name, &text, format_args!("{}, or empty", NumberList::ACCEPTED));
                Vec::new()
            }
        }
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, low: u32, high: u32) -> Option<u32> {
        let text = self.element.value(name)?;
        let value = u32::read(&text).filter(|n| (low..=high).contains(n));
        if value.is_none() {
            self.fault(name, &text, format_args!("a number from {low} to {high}"));
        }
        value
    }

    /// A value that is one of the core's names.
    pub fn name<T: FromStr<Err = NameError>>(&mut self, name: &str) -> Option<T> {
        let text = self.element.value(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, &text, error.accepted);
                None
            }
        }
    }

    /// A flag; absent means no.
    pub fn flag(&mut self, name: &str) -> bool {
        self.get::<YesNo>(name).is_some_and(|flag| flag.0)
    }

    /// A word out of a table, any case.
    pub fn word<T: Copy>(&mut self, name: &str, table: &[(&str, T)]) -> Option<T> {
        let text = self.element.value(name)?;
        let found = table.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
            self.fault(name, &text, format_args!("one of {}", words.join(" ")));
        }
        found
    }

    /// `k=v,k=v`: keys in lower case. A key without `=` is a fault.
    pub fn pairs(&mut self, name: &str) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        let Some(text) = self.element.value(name) else {
            return pairs;
        };
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let key = key.trim();
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
            if !item.contains('=') || key.is_empty() || !key.bytes().all(word) {
                self.fault(name, &text, "key=value pairs with commas between");
                return BTreeMap::new();
            }
            pairs.insert(key.to_ascii_lowercase(), value.trim().to_owned());
        }
        pairs
    }
}
