//! What can be wrong with a question, and the range checks that find it.

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number is not finite, or outside what the model accepts.
    #[error("{quantity} is {value}, accepted is {accepted}")]
    OutOfRange {
        /// The name of the quantity, as the field is called.
        quantity: &'static str,
        /// What was given.
        value: f64,
        /// The accepted range, in words.
        accepted: &'static str,
    },
    /// The parts of a guest's memory add up to more than the whole.
    #[error("dirty classes and zero pages claim {claimed} bytes of a guest with {ram} bytes of RAM")]
    ClassesExceedRam {
        /// Working sets and zero pages together, bytes.
        claimed: f64,
        /// The guest's RAM, bytes.
        ram: f64,
    },
    /// A list that must hold something is empty.
    #[error("{list} is empty")]
    Empty {
        /// Which list.
        list: &'static str,
    },
    /// A document is not JSON, or not JSON of the expected form.
    #[error("{document} cannot be read")]
    Malformed {
        /// Which document, or which part of it.
        document: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A vector asks for a function that the model does not have.
    #[error("there is no function {name:?}")]
    UnknownFunction {
        /// The name asked for.
        name: String,
    },
}

/// Whose fault an [`Error`] is; callers derive exit codes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The numbers given make no sense.
    Input,
    /// A document could not be understood.
    Document,
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::OutOfRange { .. } | Self::ClassesExceedRam { .. } | Self::Empty { .. } => Kind::Input,
            Self::Malformed { .. } | Self::UnknownFunction { .. } => Kind::Document,
        }
    }
}

/// `value` must lie in `low..=high`; NaN lies nowhere.
fn within(
    quantity: &'static str,
    value: f64,
    low: f64,
    high: f64,
    accepted: &'static str,
) -> Result<(), Error> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Error::OutOfRange { quantity, value, accepted })
}

/// An amount of bytes: up to an exabyte, so that no product in the model overflows.
pub(crate) fn bytes(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 1e18, "0 to 1e18 bytes")
}

/// A rate that things are divided by: at least one byte per second.
pub(crate) fn rate(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 1.0, 1e15, "1 to 1e15 bytes/s")
}

/// A rate that may be nothing at all.
pub(crate) fn rate_or_zero(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 1e15, "0 to 1e15 bytes/s")
}

/// A span of time: nothing to about thirty years.
pub(crate) fn seconds(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 1e9, "0 to 1e9 s")
}

/// A share of a whole.
pub(crate) fn fraction(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 1.0, "0 to 1")
}

/// A throttle: at 100 % the guest would never run again.
pub(crate) fn throttle(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 99.9, "0 to 99.9 %")
}

/// A factor or count that things are divided by.
pub(crate) fn factor(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.001, 1e6, "0.001 to 1e6")
}

/// A rate-limit window: QEMU's is a tenth of a second, and the loop looks at the clock twenty times a second.
pub(crate) fn window(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.001, 10.0, "0, or 0.001 to 10 s")
}

/// A coefficient of variation; beyond 10 a log-normal factor says nothing any more.
pub(crate) fn variation(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, 10.0, "0 to 10")
}

/// A limit that may be absent, given as infinity.
pub(crate) fn limit(quantity: &'static str, value: f64) -> Result<(), Error> {
    within(quantity, value, 0.0, f64::INFINITY, "0 or more")
}
