//! Bytes to lines, with a bound on what one line may cost.
//!
//! oned writes without waiting for the reader and blocks when the pipe is full (contract VMM 1.3), so every byte must
//! be taken as it comes. A line beyond the limit is thrown away *while it arrives*; what is kept of it is its beginning,
//! enough to say which request cannot be served.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line that is read. The largest recorded request has 12 KiB; oned's own limit for a VM's template is
/// 64 KiB, and a request carries the VM a few times over at most.
pub const LINE_LIMIT: usize = 8 << 20;

/// What is kept of a line that is too long: enough for type, status and id.
const HEAD: usize = 128;

/// How much is read at once: the size of a Linux pipe.
const CHUNK: usize = 64 << 10;

/// One line without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line as it came, a trailing CR removed. Need not be UTF-8.
    Whole(Vec<u8>),
    /// A line beyond the limit.
    TooLong {
        /// Its first blank-separated fields, three at most, each complete.
        head: Vec<u8>,
        /// How many bytes it had, without the line end.
        length: u64,
    },
}

/// Cuts a stream of bytes into lines. Holds at most `limit` bytes of an unfinished line.
#[derive(Debug)]
pub struct LineReader {
    limit: usize,
    /// The unfinished line, or the head of one that is being thrown away.
    buffer: Vec<u8>,
    /// Bytes of the unfinished line so far, if it is being thrown away.
    dropping: Option<u64>,
}

impl Default for LineReader {
    fn default() -> Self {
        LineReader::with_limit(LINE_LIMIT)
    }
}

impl LineReader {
    /// A reader for lines of at most `limit` bytes (at least 128: heads are kept in the same buffer).
    pub fn with_limit(limit: usize) -> Self {
        LineReader { limit: limit.max(HEAD), buffer: Vec::new(), dropping: None }
    }

    /// Takes the next bytes of the stream and appends the lines they complete to `lines`.
    pub fn feed(&mut self, bytes: &[u8], lines: &mut VecDeque<Line>) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        // What follows the last line feed (nothing, if the bytes end with it) begins the next line.
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.take(piece);
            lines.push_back(self.finish_line());
        }
        self.take(last);
    }

    /// Bytes held of an unfinished line.
    pub fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether the stream stops within a line. Such a line is never acted upon: its writer died while writing it.
    pub fn is_within_line(&self) -> bool {
        !self.buffer.is_empty() || self.dropping.is_some()
    }

    /// Adds a piece of a line, without a line feed in it.
    fn take(&mut self, piece: &[u8]) {
        let added = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if let Some(length) = &mut self.dropping {
            *length = length.saturating_add(added);
            return;
        }
        let needed = self.buffer.len().saturating_add(piece.len());
        if needed > self.limit {
            let length = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX).saturating_add(added);
            let room = HEAD.saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
            // The memory is given back at once, not at the end of a line that may never end.
            self.buffer = first_fields(&self.buffer).to_vec();
            self.dropping = Some(length);
            return;
        }
        if needed > self.buffer.capacity() {
            // Doubling as `Vec` does it, but never past the limit.
            let capacity = needed.max(self.buffer.capacity().saturating_mul(2)).min(self.limit);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(piece);
    }

    fn finish_line(&mut self) -> Line {
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.dropping.take() {
            Some(length) => Line::TooLong { head: bytes, length },
            None => {
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
                Line::Whole(bytes)
            }
        }
    }
}

/// The first three fields of the beginning of a line; the last field of the beginning may be cut and does not count.
fn first_fields(line: &[u8]) -> &[u8] {
    let line = line.get(..HEAD).unwrap_or(line);
    let mut fields = 0;
    let mut end = 0;
    let mut inside = false;
    for (index, byte) in line.iter().enumerate() {
        let blank = byte.is_ascii_whitespace();
        if blank && inside {
            fields += 1;
            end = index;
            if fields == 3 {
                break;
            }
        }
        inside = !blank;
    }
    line.get(..end).unwrap_or_default()
}

/// Lines from an asynchronous stream. Dropping a pending [`next`](Lines::next) loses nothing.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    reader: LineReader,
    ready: VecDeque<Line>,
    chunk: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads lines of at most [`LINE_LIMIT`] bytes from `source`.
    pub fn new(source: R) -> Self {
        Lines::with_limit(source, LINE_LIMIT)
    }

    /// Reads lines of at most `limit` bytes from `source`.
    pub fn with_limit(source: R, limit: usize) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Lines { source, reader: LineReader::with_limit(limit), ready: VecDeque::new(), chunk }
    }

    /// The next line, or `None` at the end of the stream. An unfinished last line is dropped.
    ///
    /// # Errors
    /// Whatever reading from the source returns, except an interruption, after which it reads on.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            match self.source.read(&mut self.chunk).await {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    let bytes = self.chunk.get(..count).unwrap_or_default();
                    self.reader.feed(bytes, &mut self.ready);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut reader = LineReader::with_limit(limit);
        let mut lines = VecDeque::new();
        chunks.iter().for_each(|chunk| reader.feed(chunk, &mut lines));
        lines.into()
    }

    fn whole(text: &[u8]) -> Line {
        Line::Whole(text.to_vec())
    }

    #[test]
    fn lines_come_out_wherever_the_stream_was_cut() {
        let cut: [&[u8]; 5] = [b"INIT\r\nDEP", b"LOY  4", b"2 a\n", b"\n\xff\xfe\nFINAL", b"IZE"];
        let expected = [whole(b"INIT"), whole(b"DEPLOY  42 a"), whole(b""), whole(b"\xff\xfe")];
        assert_eq!(lines(&cut, 1024), expected);
    }

    #[test]
    fn of_a_line_that_is_too_long_the_beginning_is_kept() {
        let mut text = b"DEPLOY  42 ".to_vec();
        text.extend([b'A'; 5000]);
        text.extend(b"\nDEPLOY  43 BBBB\n");
        for size in [1, 7, 100, 10_000] {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            let found = lines(&chunks, 1000);
            let head = b"DEPLOY  42".to_vec();
            assert_eq!(found, [Line::TooLong { head, length: 5011 }, whole(b"DEPLOY  43 BBBB")]);
        }
    }

    #[test]
    fn a_field_that_may_be_cut_is_not_believed() {
        let found = lines(&[&[b'9'; 4000], b"\n"], 1000);
        assert_eq!(found, [Line::TooLong { head: Vec::new(), length: 4000 }]);
        assert_eq!(first_fields(b"A 1"), b"A");
        assert_eq!(first_fields(b" A\t1 b c"), b" A\t1 b");
    }

    #[test]
    fn a_hundred_megabytes_cost_no_more_than_the_limit() {
        let mut reader = LineReader::default();
        let mut lines = VecDeque::new();
        reader.feed(b"DEPLOY  7 ", &mut lines);
        let chunk = [b'A'; CHUNK];
        let mut most = 0;
        for _ in 0..1600 {
            reader.feed(&chunk, &mut lines);
            most = most.max(reader.held());
        }
        reader.feed(b"\nFINALIZE\n", &mut lines);
        assert!(most <= LINE_LIMIT, "{most} bytes were held");
        let length = u64::try_from(10 + 1600 * CHUNK).unwrap();
        assert!(length > 100_000_000);
        let head = b"DEPLOY  7".to_vec();
        assert_eq!(lines, [Line::TooLong { head, length }, whole(b"FINALIZE")]);
        assert!(reader.held() <= HEAD);
    }

    #[test]
    fn a_stream_gives_its_lines_and_drops_the_unfinished_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lines = Lines::new(&b"INIT\nDEPLOY  1 x\nSAV"[..]);
            assert_eq!(lines.next().await.unwrap(), Some(whole(b"INIT")));
            assert_eq!(lines.next().await.unwrap(), Some(whole(b"DEPLOY  1 x")));
            assert_eq!(lines.next().await.unwrap(), None);
            assert!(lines.reader.is_within_line());
        });
    }

    proptest! {
        #[test]
        fn cutting_never_changes_the_lines(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], 0..600),
            size in 1_usize..50,
        ) {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            prop_assert_eq!(lines(&chunks, 150), lines(&[&text], 150));
        }
    }
}
