//! Length-prefixed JSON on blocking streams: a 32-bit big-endian length, then that many bytes.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame: an 8 MiB request line with room to spare would not fit a VM; documents are far smaller.
pub const LIMIT: usize = 8 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame, or failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// More than [`LIMIT`].
    #[error("a frame of {0} bytes is larger than {LIMIT}")]
    TooLarge(usize),
    /// The bytes are no value of ours.
    #[error("a frame that cannot be read: {0}")]
    Content(String),
}

/// Encodes one value as a frame, so that it can be sent in one write.
///
/// # Errors
/// [`FrameError::TooLarge`], or a value that JSON cannot hold.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value).map_err(|e| FrameError::Content(e.to_string()))?;
    let length = bytes.len() - 4;
    let prefix =
        u32::try_from(length).ok().filter(|_| length <= LIMIT).ok_or(FrameError::TooLarge(length))?;
    for (slot, byte) in bytes.iter_mut().zip(prefix.to_be_bytes()) {
        *slot = byte;
    }
    Ok(bytes)
}

/// Decodes the body of a frame.
///
/// # Errors
/// [`FrameError::Content`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|e| FrameError::Content(e.to_string()))
}

/// The length that a prefix announces.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > LIMIT { Err(FrameError::TooLarge(length)) } else { Ok(length) }
}

/// Reads the body of one frame; `None` at the end of the stream between two frames.
///
/// # Errors
/// As for the variants of [`FrameError`].
pub fn read(stream: &mut impl Read) -> Result<Option<Vec<u8>>, FrameError> {
    let mut prefix = [0; 4];
    let mut filled = 0;
    while let Some(rest) = prefix.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = length(prefix)?;
    // Grown while it arrives: an announced length alone allocates nothing.
    let mut body = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(limit).read_to_end(&mut body)?;
    match body.len() == length {
        true => Ok(Some(body)),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// Writes one value as a frame.
///
/// # Errors
/// As for [`encode`], or a failed stream.
pub fn write<T: Serialize>(stream: &mut impl Write, value: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(value)?)?;
    Ok(stream.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ends_of_a_stream_are_told_apart() {
        let whole = encode(&"abc").unwrap();
        assert_eq!(whole, b"\0\0\0\x05\"abc\"");
        assert!(read(&mut [].as_slice()).unwrap().is_none());
        for cut in 1..whole.len() {
            assert!(matches!(read(&mut &whole[..cut]), Err(FrameError::Io(_))), "{cut}");
        }
        assert!(matches!(read(&mut b"GET / HTTP".as_slice()), Err(FrameError::TooLarge(_))));
        assert!(decode::<u32>(b"\"abc\"").is_err());
    }

    proptest! {
        #[test]
        fn values_come_back(values: Vec<String>) {
            let mut bytes = Vec::new();
            for value in &values {
                write(&mut bytes, value).unwrap();
            }
            let mut stream = bytes.as_slice();
            for value in &values {
                let body = read(&mut stream).unwrap().unwrap();
                prop_assert_eq!(&decode::<String>(&body).unwrap(), value);
            }
            prop_assert!(read(&mut stream).unwrap().is_none());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let mut stream = bytes.as_slice();
            while let Ok(Some(body)) = read(&mut stream) {
                let _ = decode::<crate::root::Request>(&body);
            }
        }
    }
}
