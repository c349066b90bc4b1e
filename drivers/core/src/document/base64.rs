//! Base64 as it travels in requests and on the standard input of foreign scripts: the standard alphabet, padded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The line length of Ruby's `Base64.encode64`, which the stock driver uses for `update_nic` (contract VMM 2.4).
const LINE: usize = 60;

/// A text that is not base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not base64: {0}")]
pub struct Base64Error(String);

/// One unbroken line without a line end: requests, VNM steps, TM migration steps.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Lines of 60 characters, each ended by a line feed: the standard input of `update_nic`.
pub fn encode_lines(bytes: &[u8]) -> String {
    let line = STANDARD.encode(bytes);
    let mut out = String::with_capacity(line.len() + line.len() / LINE + 1);
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        out.push_str(head);
        out.push('\n');
        rest = tail;
    }
    out
}

/// The bytes; white space anywhere is skipped (contract VNM 1.3: a decoder must ignore it).
///
/// # Errors
/// [`Base64Error`] for any other character outside the alphabet, and for missing or wrong padding.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    let failed = |error: base64::DecodeError| Base64Error(error.to_string());
    if !text.iter().any(u8::is_ascii_whitespace) {
        return STANDARD.decode(text).map_err(failed);
    }
    let packed: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers_of_rfc_4648() {
        assert_eq!(encode(b"foobar"), "Zm9vYmFy");
        assert_eq!(encode(b"fooba"), "Zm9vYmE=");
        assert_eq!(encode_lines(b""), "");
        assert_eq!(decode(b"Zm9v\nYmE=\n").unwrap(), b"fooba");
        for bad in ["Zm9vYmE", "Zm9v*mE=", "Zm9vYmE=Zm9v", "Zm9vYmF="] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_come_back(bytes: Vec<u8>) {
            let lines = encode_lines(&bytes);
            prop_assert!(lines.lines().all(|line| line.len() <= LINE));
            prop_assert_eq!(decode(lines.as_bytes()).unwrap(), bytes.clone());
            prop_assert_eq!(decode(encode(&bytes).as_bytes()).unwrap(), bytes);
        }
    }
}
