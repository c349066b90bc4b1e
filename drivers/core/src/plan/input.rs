//! The bytes that travel beside a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes a step reads. Serialised as text where they are text, so that a log or a frame can be read by a person.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "InputForm", into = "InputForm")]
pub struct Input(pub std::sync::Arc<[u8]>);

impl Input {
    /// Input of those bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Input(bytes.into().into())
    }
}

impl fmt::Debug for Input {
    /// Only the length: inputs carry decrypted datastore secrets (contract VMM 7, G9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} bytes)", self.0.len())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InputForm {
    Text(String),
    Base64(String),
}

impl From<Input> for InputForm {
    fn from(input: Input) -> Self {
        use base64::prelude::{BASE64_STANDARD, Engine};
        match std::str::from_utf8(&input.0) {
            Ok(text) => InputForm::Text(text.to_owned()),
            Err(_) => InputForm::Base64(BASE64_STANDARD.encode(&input.0)),
        }
    }
}

impl From<InputForm> for Input {
    fn from(form: InputForm) -> Self {
        use base64::prelude::{BASE64_STANDARD, Engine};
        match form {
            InputForm::Text(text) => Input::new(text.into_bytes()),
            // A frame is ours on both ends; one with broken base64 yields an empty input, which every reader refuses.
            InputForm::Base64(text) => Input::new(BASE64_STANDARD.decode(text).unwrap_or_default()),
        }
    }
}
