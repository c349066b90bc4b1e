//! What both sides of a trial say to each other.

use std::io::{self, Read, Write};

use std::time::Duration;

use super::token::LENGTH;
use super::{Limits, Throughput, Token};

/// The first word of both sides; the digit is the version of the protocol.
pub(super) const HELLO: &[u8; 8] = b"CWPROBE1";

/// Round trips that are measured.
pub(super) const PINGS: usize = 9;

/// Bytes that are written and read at once.
pub(super) const BLOCK: usize = 256 << 10;

/// A report is some two hundred bytes.
const REPORT_LIMIT: u64 = 4096;

/// The source's first words.
pub(super) fn greet(stream: &mut impl Write, token: &Token) -> io::Result<()> {
    let mut words = Vec::with_capacity(HELLO.len() + LENGTH);
    words.extend_from_slice(HELLO);
    words.extend_from_slice(token.bytes());
    stream.write_all(&words)
}

/// Whether a caller said the right first words.
pub(super) fn is_greeting(stream: &mut impl Read, token: &Token) -> io::Result<bool> {
    let (mut hello, mut offered) = ([0; HELLO.len()], [0; LENGTH]);
    stream.read_exact(&mut hello)?;
    stream.read_exact(&mut offered)?;
    Ok(token.matches(&offered) && hello == *HELLO)
}

/// The sink's first words: that it is one, and what it will take.
pub(super) fn answer(stream: &mut impl Write, limits: &Limits) -> io::Result<()> {
    let mut words = Vec::with_capacity(HELLO.len() + 16);
    words.extend_from_slice(HELLO);
    words.extend_from_slice(&limits.bytes.to_be_bytes());
    let stream_us = u64::try_from(limits.stream.as_micros()).unwrap_or(u64::MAX);
    words.extend_from_slice(&stream_us.to_be_bytes());
    stream.write_all(&words)
}

/// What a sink will take, cut to our own limits; `None` if the other side is no sink.
pub(super) fn read_answer(stream: &mut impl Read, own: &Limits) -> io::Result<Option<Limits>> {
    let (mut hello, mut bytes, mut stream_us) = ([0; HELLO.len()], [0; 8], [0; 8]);
    stream.read_exact(&mut hello)?;
    if hello != *HELLO {
        return Ok(None);
    }
    stream.read_exact(&mut bytes)?;
    stream.read_exact(&mut stream_us)?;
    let duration = Duration::from_micros(u64::from_be_bytes(stream_us));
    Ok(Some(Limits {
        bytes: u64::from_be_bytes(bytes).min(own.bytes),
        stream: duration.min(own.stream),
        wait: own.wait,
    }))
}

/// The sink's last word.
pub(super) fn write_report(stream: &mut impl Write, report: &Throughput) -> io::Result<()> {
    let text = serde_json::to_vec(report).map_err(io::Error::other)?;
    stream.write_all(&text)
}

/// Reads the sink's last word, to the end of the stream.
pub(super) fn read_report(stream: &mut impl Read) -> io::Result<Throughput> {
    let mut text = Vec::new();
    stream.take(REPORT_LIMIT).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// A block that no tunnel can compress; the same in every trial, so that trials can be compared.
pub(super) fn noise() -> Vec<u8> {
    // Marsaglia's xorshift64: enough for a compressor, and nothing depends on it.
    let mut state: u64 = 0x2545_f491_4f6c_dd1d;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_words_open() {
        let token = Token::random().unwrap();
        let mut words = Vec::new();
        greet(&mut words, &token).unwrap();
        assert!(is_greeting(&mut words.as_slice(), &token).unwrap());
        let other = Token::random().unwrap();
        assert!(!is_greeting(&mut words.as_slice(), &other).unwrap());
        words[0] = b'X';
        assert!(!is_greeting(&mut words.as_slice(), &token).unwrap());
        assert!(is_greeting(&mut &words[..10], &token).is_err());
    }

    #[test]
    fn the_narrower_limits_hold() {
        let limits =
            |bytes, seconds| Limits { bytes, stream: Duration::from_secs(seconds), ..Limits::default() };
        let mut words = Vec::new();
        answer(&mut words, &limits(1000, 3)).unwrap();
        let agreed = read_answer(&mut words.as_slice(), &limits(2000, 2)).unwrap();
        assert_eq!(agreed, Some(limits(1000, 2)));
        assert!(read_answer(&mut &words[..20], &limits(1, 1)).is_err());
        let stranger = b"HTTP/1.1 400 Bad Request";
        let agreed = read_answer(&mut stranger.as_slice(), &limits(1, 1)).unwrap();
        assert_eq!(agreed, None);
    }

    #[test]
    fn a_report_survives_the_way_and_a_long_one_is_cut() {
        let report = Throughput::of(&[(0.1, 5); 7], 0.25);
        let mut text = Vec::new();
        write_report(&mut text, &report).unwrap();
        assert_eq!(read_report(&mut text.as_slice()).unwrap(), report);
        assert!(read_report(&mut vec![b' '; 1 << 20].as_slice()).is_err());
    }

    #[test]
    fn the_block_has_no_pattern_that_a_compressor_would_find() {
        let block = noise();
        assert_eq!(block.len(), BLOCK);
        let mut counts = [0_u32; 256];
        for byte in &block {
            counts[usize::from(*byte)] += 1;
        }
        let even = 1024;
        assert!(counts.iter().all(|n| n.abs_diff(even) < 200), "{counts:?}");
    }
}
