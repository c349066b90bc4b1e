//! What an image is to be made of: a file of the front-end, or something that the stock `downloader.sh` can fetch.
//!
//! That script puts the address into a command for its shell. Of what it quotes well (`http`, `https`) any address of
//! RFC 3986 is taken; of everything else only such characters as mean nothing to a shell.

use causeway_core::names::{DiskPath, NameError};

use super::document::{DatastoreFacts, ImageFacts};
use super::plan::Front;
use crate::error::TmError;
use crate::host::{Checksum, Dirs, Fetch, Origin};

/// Longest address, bytes.
const ADDRESS_LIMIT: usize = 8 << 10;

/// What `PATH` of an image names.
pub(super) enum Named {
    /// A file of the front-end.
    File(DiskPath),
    /// An address.
    Address {
        /// Before `://`, in lower case.
        scheme: String,
        /// All of it.
        text: String,
    },
}

impl Named {
    /// # Errors
    /// Neither a plain path nor an address that can be handed on.
    pub(super) fn read(path: &str) -> Result<Self, TmError> {
        let wrong = |source: NameError| TmError::Attribute {
            attribute: "PATH".to_owned(),
            object: "the image".to_owned(),
            value: source.value,
            accepted: source.accepted.into(),
        };
        let Some((scheme, rest)) = path.split_once("://") else {
            return path.parse().map(Named::File).map_err(wrong);
        };
        let scheme = scheme.to_ascii_lowercase();
        let is_word = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
        if !is_word {
            return path.parse().map(Named::File).map_err(wrong);
        }
        let quoted = matches!(scheme.as_str(), "http" | "https");
        let taken = |b: u8| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => true,
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'@' | b'%' | b'+' | b',' | b'=' => true,
            // These two stand in double quotes there.
            b'?' | b'&' => quoted || matches!(scheme.as_str(), "docker" | "dockerfile" | "lxd"),
            b'#' | b'[' | b']' | b'!' | b'$' | b'(' | b')' | b'*' | b';' => quoted,
            _ => false,
        };
        let ok = path.len() <= ADDRESS_LIMIT && !rest.is_empty() && !rest.starts_with(['-', '~']);
        if !ok || !rest.bytes().all(taken) {
            let accepted = "an address of letters, digits and the signs that one may have";
            return Err(wrong(NameError::new("address", path, accepted)));
        }
        Ok(Named::Address { scheme, text: path.to_owned() })
    }
}

/// Whether the stock `downloader.sh` may be handed this address. Of an S3 store it would put the keys on a command line.
pub(crate) fn is_address(text: &str) -> bool {
    matches!(Named::read(text), Ok(Named::Address { scheme, .. }) if scheme != "s3")
}

/// Where the bytes of a new image come from; `signed` is the address of an object in a store that asks for keys.
pub(super) fn origin(
    image: &ImageFacts,
    signed: Option<&str>,
    datastore: &DatastoreFacts,
    front: &Front,
) -> Result<Origin, TmError> {
    let dirs = dirs(datastore, front);
    // A kernel or a file for a context is what it is (contract TM 3.2).
    let decompress = !datastore.no_decompress.unwrap_or(datastore.files);
    let (md5, sha1) = (image.md5.clone(), image.sha1.clone());
    let checksum = (md5.is_some() || sha1.is_some()).then_some(Checksum { md5, sha1 });
    let fetch = |address: Option<String>| Fetch {
        program: front.downloader.clone(),
        address,
        decompress,
        limit: datastore.limit.clone(),
        what: None,
    };
    match Named::read(signed.map_or_else(|| image.path(), Ok)?)? {
        Named::File(path) => {
            let unpack = decompress.then(|| fetch(None));
            Ok(Origin::File { path, dirs, unpack, checksum })
        }
        Named::Address { scheme, text } => {
            // What was signed is good as it is only.
            let text = match image.url_args.as_ref().filter(|_| signed.is_none()) {
                // As the stock script appends them.
                Some(more) => format!("{text}&{more}"),
                None => text,
            };
            // Once more, with what was appended.
            let Named::Address { text, .. } = Named::read(&text)? else {
                return Err(TmError::NotYet(format!("{scheme}: not an address")));
            };
            Ok(Origin::Address { fetch: fetch(Some(text)), checksum })
        }
    }
}

/// The directories that a user may and may not name files of.
pub(super) fn dirs(datastore: &DatastoreFacts, front: &Front) -> Dirs {
    let restricted = front.restricted.iter().cloned().chain(datastore.restricted_dirs.iter().map(Into::into));
    Dirs { safe: datastore.safe_dirs.iter().map(Into::into).collect(), restricted: restricted.collect() }
}

/// Whether an image is to come from an address that says how large it will be.
pub(super) fn tells_its_size(image: &ImageFacts) -> bool {
    let Ok(path) = image.path() else { return false };
    let elsewhere = |named| matches!(named, Named::Address { scheme, .. } if !matches!(scheme.as_str(), "http" | "https"));
    Named::read(path).is_ok_and(elsewhere) && stated_size(path).is_some()
}

/// `size` of an address of a container image, MiB: what its file system is to have.
pub(super) fn stated_size(address: &str) -> Option<u64> {
    let (_, query) = address.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("size=")).and_then(|size| size.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_and_addresses() {
        let file = |text: &str| matches!(Named::read(text), Ok(Named::File(_)));
        let address = |text: &str| matches!(Named::read(text), Ok(Named::Address { .. }));
        for text in ["/var/tmp/os.qcow2", "/var/tmp/a b", "/var/tmp/$(x)'\"", "/var/tmp/-x"] {
            assert!(file(text), "{text}");
        }
        for text in ["os.qcow2", "/var/tmp/../x", "", "/a\nb", "file:", "-x"] {
            assert!(Named::read(text).is_err(), "{text}");
        }
        let up = Named::read("/var/tmp/../x").err().map(|error| error.to_string());
        assert!(up.is_some_and(|text| text.starts_with("PATH of the image is \"/var/tmp/../x\", not an absolute")));
        for text in [
            "http://h/a?b=c&d=$e(f)",
            "HTTPS://h/%20x",
            "docker://alpine?size=512&format=raw",
            "ssh://h:/x/y",
            "s3://bucket/object",
        ] {
            assert!(address(text), "{text}");
        }
        for text in [
            "http://h/a b",
            "http://h/'x'",
            "http://h/`x`",
            "http://h/\"",
            "http://",
            "ssh://-oProxyCommand=x:/y",
            "ssh://h;x:/y",
            "docker://$(x)",
            "lxd://a`b`",
            "rbd://h/a?b",
            "http://h/\u{e9}",
        ] {
            assert!(Named::read(text).is_err(), "{text}");
        }
        assert!(Named::read(&format!("http://h/{}", "x".repeat(ADDRESS_LIMIT))).is_err());
        assert_eq!(stated_size("docker://alpine?format=raw&size=512"), Some(512));
        assert_eq!(stated_size("docker://alpine"), None);
    }

    proptest! {
        #[test]
        fn no_address_means_anything_to_a_shell(rest in "[ -~]{0,40}", scheme in "(ssh|rbd|docker|lxd|x)") {
            let text = format!("{scheme}://{rest}");
            if let Ok(Named::Address { text, .. }) = Named::read(&text) {
                let signs = "$`\"'\\;|<>(){}*!# ";
                prop_assert!(!text.contains(|c: char| signs.contains(c)), "{}", text);
            }
        }
    }
}
