//! An address that a file of a context image is fetched from.

use std::fmt;
use std::str::FromStr;

use causeway_core::names::NameError;
use serde::{Deserialize, Serialize};

use crate::place::{FileName, as_text};

/// Longest address, bytes.
const LIMIT: usize = 8 << 10;

/// `http://` or `https://`. It may hold a password: messages name it by [`told`](WebAddress::told).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebAddress(String);
as_text!(WebAddress);

impl WebAddress {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address without what may be secret in it: neither who asks, nor what is asked beside the path.
    pub fn told(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}://{host}{path}")
    }

    /// The name that `wget`, which the stock script calls, gives to what it fetches (contract TM 2.1): the last part of
    /// the path, with the query.
    ///
    /// # Errors
    /// It is no file's name.
    pub(crate) fn file_name(&self) -> Result<FileName, NameError> {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let last = place.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
        let mut name = match last {
            "" => "index.html".to_owned(),
            last => decoded(last).unwrap_or_else(|| last.to_owned()),
        };
        if let Some(query) = query {
            name = format!("{name}?{}", query.replace('/', "%2F"));
        }
        name.parse()
    }
}

/// A part of a path with its `%xx` as the signs that they stand for; none where that is no name.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit()?, digit()?);
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).ok().filter(|name| !name.contains('/') && !name.contains(char::is_control))
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WebAddress {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)));
        let host = rest.map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let plain = text.len() <= LIMIT && text.bytes().all(|b| b.is_ascii_graphic());
        if plain && !host.is_empty() && !host.starts_with('-') {
            return Ok(WebAddress(text.to_owned()));
        }
        Err(NameError::new("address", text, "http:// or https://, a host, and no signs but those of ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_address_makes_a_path_or_tells_a_password(rest in "[!-~]{0,40}", path in "[!-~]{0,20}") {
            if let Ok(address) = format!("http://{rest}").parse::<WebAddress>()
                && let Ok(name) = address.file_name()
            {
                prop_assert!(!name.as_str().contains('/') && name.as_str() != "..", "{}", name);
            }
            let address: WebAddress = format!("http://me:hush@h/{path}").parse().unwrap();
            prop_assert!(address.told().starts_with("http://h/"), "{}", address.told());
        }
    }

    #[test]
    fn addresses_and_the_names_of_what_they_bring() {
        for (text, name, told) in [
            ("http://h/init.sh", "init.sh", "http://h/init.sh"),
            ("HTTPS://u:p@h:8/a/b%20c.sh?token=x/y#z", "b c.sh?token=x%2Fy", "HTTPS://h:8/a/b%20c.sh"),
            ("http://h", "index.html", "http://h"),
            ("http://h/a/", "index.html", "http://h/a/"),
            ("http://h?x=1", "index.html?x=1", "http://h"),
            ("http://h/a%2fb", "a%2fb", "http://h/a%2fb"),
            ("http://h/a%zz%00", "a%zz%00", "http://h/a%zz%00"),
            ("http://h/$(x)'`\"", "$(x)'`\"", "http://h/$(x)'`\""),
        ] {
            let address: WebAddress = text.parse().unwrap();
            assert_eq!((address.file_name().unwrap().as_str(), address.told().as_str()), (name, told));
        }
    }

    #[test]
    fn what_is_no_address_or_no_name_is_refused() {
        for text in [
            "http://",
            "ftp://h/x",
            "http:///x",
            "http://-x/y",
            "http://h/a b",
            "http://h/\u{e9}",
            "/a",
            "file:///x",
        ] {
            assert!(text.parse::<WebAddress>().is_err(), "{text}");
        }
        assert!(format!("http://h/{}", "x".repeat(LIMIT)).parse::<WebAddress>().is_err());
        for text in ["http://h/%2e%2e", "http://h/..", "http://h/.causeway-tmp.x"] {
            assert!(text.parse::<WebAddress>().unwrap().file_name().is_err(), "{text}");
        }
    }
}
