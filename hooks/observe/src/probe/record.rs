//! The 24 bytes that every probe sends and every echo brings back.
//!
//! ```text
//! 0      4    5        8              16             24
//! | CWAY | k  | 0 0 0  | nonce (BE)   | sequence (BE) |
//! ```
//!
//! `k` is `?` from a probe and `!` from our own responder; a plain echo service sends the `?` back, and both count as an
//! answer. Our responder answers only `?`, so that two responders can never keep each other busy. The nonce is drawn
//! once per probe: an answer meant for another probe, or for an earlier run, is not ours.

/// Bytes on the wire, in every protocol.
pub const LENGTH: usize = 24;

const MAGIC: [u8; 4] = *b"CWAY";
const ASK: u8 = b'?';
const ANSWER: u8 = b'!';

/// One numbered question or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Whose question this is.
    pub nonce: u64,
    /// Which question of that probe.
    pub sequence: u64,
}

impl Record {
    /// The question as sent.
    pub fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let fields = MAGIC
            .into_iter()
            .chain([ASK, 0, 0, 0])
            .chain(self.nonce.to_be_bytes())
            .chain(self.sequence.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    /// Reads a question or an answer from the start of `bytes`; longer input is fine (padding), anything else is `None`.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let (nonce, rest) = rest.split_first_chunk::<8>()?;
        let (sequence, _) = rest.split_first_chunk::<8>()?;
        let [m0, m1, m2, m3, kind, 0, 0, 0] = *head else {
            return None;
        };
        let ours = [m0, m1, m2, m3] == MAGIC && matches!(kind, ASK | ANSWER);
        ours.then(|| Record { nonce: u64::from_be_bytes(*nonce), sequence: u64::from_be_bytes(*sequence) })
    }

    /// Turns a question into its answer where it lies; `false` (and no change) if `bytes` is not a question.
    pub fn answer_in_place(bytes: &mut [u8]) -> bool {
        if Record::decode(bytes).is_none() {
            return false;
        }
        match bytes.get_mut(4) {
            Some(kind) if *kind == ASK => {
                *kind = ANSWER;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_as_drawn() {
        let record = Record { nonce: 0x0102_0304_0506_0708, sequence: 9 };
        let expected = b"CWAY?\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09";
        assert_eq!(&record.encode(), expected);
    }

    #[test]
    fn an_answer_is_not_answered_again() {
        let mut bytes = Record { nonce: 1, sequence: 2 }.encode();
        assert!(Record::answer_in_place(&mut bytes));
        assert_eq!(bytes[4], b'!');
        assert!(!Record::answer_in_place(&mut bytes));
        assert!(!Record::answer_in_place(&mut []));
        assert!(!Record::answer_in_place(&mut [b'x'; 64]));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read_back(nonce: u64, sequence: u64, padding in prop::collection::vec(any::<u8>(), 0..40)) {
            let record = Record { nonce, sequence };
            let mut bytes = record.encode().to_vec();
            bytes.extend(padding);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            Record::answer_in_place(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(record) = Record::decode(&bytes) {
                prop_assert_eq!(&record.encode()[5..], &bytes[5..LENGTH]);
            }
        }
    }
}
