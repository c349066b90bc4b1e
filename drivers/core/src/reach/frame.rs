//! Length-prefixed JSON: a 32-bit big-endian length, then that many bytes of one JSON value.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

/// The largest frame: room for an 8 MiB request several times over.
pub const FRAME_LIMIT: usize = 64 << 20;

/// How many bytes of frames are gathered for one write, but for the last of them.
const BATCH: usize = 64 << 10;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two frames, or inside one.
    #[error("the other side closed the connection")]
    Closed,
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The bytes are not a frame of ours: most often a shell's greeting on the session.
    #[error("the other side does not speak our protocol: {0}")]
    Foreign(String),
}

/// Encodes one value as a frame.
///
/// # Errors
/// A value above [`FRAME_LIMIT`], or one that JSON cannot hold.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    append(&mut bytes, value)?;
    Ok(bytes)
}

fn append<T: Serialize>(bytes: &mut Vec<u8>, value: &T) -> Result<(), FrameError> {
    // The length goes in front once it is known, so that a frame is one write.
    let start = bytes.len();
    bytes.extend([0; 4]);
    serde_json::to_writer(&mut *bytes, value).map_err(|e| FrameError::Foreign(e.to_string()))?;
    let length = bytes.len() - start - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= FRAME_LIMIT);
    let prefix =
        prefix.ok_or_else(|| FrameError::Foreign(format!("a frame of {length} bytes is too large")))?;
    for (slot, byte) in bytes.iter_mut().skip(start).zip(prefix.to_be_bytes()) {
        *slot = byte;
    }
    Ok(())
}

/// Reads one frame.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix).await {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        other => other?,
    };
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_LIMIT {
        let text = String::from_utf8_lossy(&prefix).into_owned();
        return Err(FrameError::Foreign(format!("it begins with {text:?}")));
    }
    let mut bytes = Vec::new();
    // Grown while it arrives: a length alone allocates nothing.
    let mut body = stream.take(u64::try_from(length).unwrap_or(u64::MAX));
    body.read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(FrameError::Closed);
    }
    serde_json::from_slice(&bytes).map_err(|e| FrameError::Foreign(e.to_string()))
}

/// Writes one frame and flushes it.
///
/// # Errors
/// A failed stream, or a value that [`encode`] refuses.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), FrameError> {
    stream.write_all(&encode(value)?).await?;
    stream.flush().await?;
    Ok(())
}

/// Writes what comes out of `queue` until it closes. What waits there together goes out together: under load most of a
/// small message's price is the write.
///
/// # Errors
/// As [`write()`].
pub async fn write_all<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    queue: &mut UnboundedReceiver<T>,
) -> Result<(), FrameError> {
    while let Some(value) = queue.recv().await {
        let mut bytes = encode(&value)?;
        while bytes.len() < BATCH
            && let Ok(value) = queue.try_recv()
        {
            append(&mut bytes, &value)?;
        }
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn frames_travel_whole() {
        block_on(async {
            let mut bytes = encode(&"one").unwrap();
            bytes.extend(encode(&vec![1, 2]).unwrap());
            let mut stream = bytes.as_slice();
            assert_eq!(read::<String>(&mut stream).await.unwrap(), "one");
            assert_eq!(read::<Vec<u8>>(&mut stream).await.unwrap(), [1, 2]);
            assert!(matches!(read::<String>(&mut stream).await, Err(FrameError::Closed)));
        });
    }

    #[test]
    fn what_waits_together_is_written_together_and_in_order() {
        block_on(async {
            let (sender, mut queue) = tokio::sync::mpsc::unbounded_channel();
            let texts: Vec<String> = (0..50).map(|n| n.to_string().repeat(2000)).collect();
            texts.iter().for_each(|text| sender.send(text.clone()).unwrap());
            drop(sender);
            let mut bytes = Vec::new();
            write_all(&mut bytes, &mut queue).await.unwrap();
            let mut stream = bytes.as_slice();
            for text in texts {
                assert_eq!(read::<String>(&mut stream).await.unwrap(), text);
            }
            assert!(stream.is_empty());
        });
    }

    #[test]
    fn a_cut_frame_is_closed_and_a_greeting_is_foreign() {
        block_on(async {
            let bytes = encode(&"cut off").unwrap();
            let mut cut = bytes.get(..7).unwrap();
            assert!(matches!(read::<String>(&mut cut).await, Err(FrameError::Closed)));
            let mut greeting = b"Welcome to Debian".as_slice();
            assert!(matches!(read::<String>(&mut greeting).await, Err(FrameError::Foreign(_))));
        });
    }
}
