//! The one-time secret that opens a sink.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a token.
pub(super) const LENGTH: usize = 16;

/// A secret for one trial. It is never printed by `Debug`.
///
/// It keeps strangers from using the sink; it does not hide anything, the stream has nothing to hide. An eavesdropper
/// learns it when it is spent already.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token([u8; LENGTH]);

/// A text that is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token is {} hexadecimal digits", LENGTH * 2)]
pub struct NotAToken;

impl Token {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Token(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// Compares without telling by its duration how much was right.
    pub(super) fn matches(&self, offered: &[u8; LENGTH]) -> bool {
        let differing = self.0.iter().zip(offered).fold(0, |d, (a, b)| d | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl FromStr for Token {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        if text.len() != LENGTH * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAToken);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| NotAToken)?;
        Ok(Token(number.to_be_bytes()))
    }
}

impl TryFrom<String> for Token {
    type Error = NotAToken;
    fn try_from(text: String) -> Result<Self, NotAToken> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        format!("{:032x}", u128::from_be_bytes(token.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_travels_as_text_and_stays_out_of_logs() {
        let token = Token::random().unwrap();
        let text = String::from(token);
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&text));
        assert_ne!(Token::random().unwrap(), token);
        for wrong in ["", "00", "+0000000000000000000000000000001", "zz000000000000000000000000000000"] {
            assert_eq!(wrong.parse::<Token>(), Err(NotAToken), "{wrong}");
        }
    }

    #[test]
    fn one_wrong_bit_is_wrong() {
        let token = Token([7; LENGTH]);
        assert!(token.matches(&[7; LENGTH]));
        let mut other = [7; LENGTH];
        other[LENGTH - 1] ^= 1;
        assert!(!token.matches(&other));
    }
}
