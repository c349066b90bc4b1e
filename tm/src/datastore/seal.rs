//! Datagrams that only monitord can read: RSA by the public key that `PUBKEY` of `monitord.conf` names, as the stock
//! probes use it (PKCS #1 1.5, block by block). The key is public: nothing here holds a secret but the text itself.

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::decode;
use num_bigint::BigUint;

/// Bytes of a block that are not the text's.
const PADDING: usize = 11;
const BEGIN: &str = "-----BEGIN RSA PUBLIC KEY-----";
const END: &str = "-----END RSA PUBLIC KEY-----";
/// Fewest and most bits of a modulus: what is below protects nothing, what is above is no key.
const BITS: std::ops::RangeInclusive<u64> = 1024..=16_384;

/// A public key of RSA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    modulus: BigUint,
    exponent: BigUint,
    /// Bytes of the modulus, and of a block.
    size: usize,
}

impl PublicKey {
    /// Reads a key of PKCS #1 in PEM, which is what monitord reads.
    ///
    /// # Errors
    /// [`Kind::HostState`]: it is none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            let text = "PUBKEY of monitord.conf names no RSA public key in PEM (`BEGIN RSA PUBLIC KEY`) of 1024 bits or more";
            Failure::new(Kind::HostState, text)
        };
        let (_, rest) = text.split_once(BEGIN).ok_or_else(wrong)?;
        let (body, _) = rest.split_once(END).ok_or_else(wrong)?;
        let body: String = body.split_ascii_whitespace().collect();
        let bytes = decode(body.as_bytes()).map_err(|_| wrong())?;
        let (modulus, exponent) = read(&bytes).ok_or_else(wrong)?;
        let odd = |number: &BigUint| number.bit(0);
        let sound = BITS.contains(&modulus.bits()) && odd(&modulus) && odd(&exponent) && exponent.bits() > 1;
        let size = usize::try_from(modulus.bits().div_ceil(8)).map_err(|_| wrong())?;
        if sound && exponent.bits() <= 64 { Ok(PublicKey { modulus, exponent, size }) } else { Err(wrong()) }
    }

    /// A text that only the holder of the other key can read.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn seal(&self, text: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut sealed = Vec::with_capacity(text.len() * 5 / 4);
        for part in text.chunks(self.size - PADDING) {
            let mut block = vec![0, 2];
            block.extend(nonzero(self.size - 3 - part.len())?);
            block.push(0);
            block.extend_from_slice(part);
            let number = BigUint::from_bytes_be(&block).modpow(&self.exponent, &self.modulus).to_bytes_be();
            sealed.resize(sealed.len() + self.size - number.len(), 0);
            sealed.extend(number);
        }
        Ok(sealed)
    }
}

/// So many random bytes, none of them zero.
fn nonzero(count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let mut drawn = vec![0; count - bytes.len()];
        let filled = rustix::rand::getrandom(&mut drawn, rustix::rand::GetRandomFlags::empty())?;
        bytes.extend(drawn.into_iter().take(filled).filter(|byte| *byte != 0));
    }
    Ok(bytes)
}

/// `RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }`, and nothing after it.
fn read(bytes: &[u8]) -> Option<(BigUint, BigUint)> {
    let (body, rest) = element(bytes, 0x30)?;
    let (modulus, body) = element(body, 0x02)?;
    let (exponent, after) = element(body, 0x02)?;
    let number = |bytes: &[u8]| {
        // Of a negative one the first bit is set.
        bytes.first().filter(|first| **first < 0x80)?;
        Some(BigUint::from_bytes_be(bytes))
    };
    (rest.is_empty() && after.is_empty()).then_some(())?;
    Some((number(modulus)?, number(exponent)?))
}

/// The content of the element of that tag which the bytes begin with, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(2)?;
    let [found, length] = head else { return None };
    (*found == tag).then_some(())?;
    if *length < 0x80 {
        return rest.split_at_checked(usize::from(*length));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(*length & 0x7f))?;
    let length =
        (digits.len() <= 4).then(|| digits.iter().fold(0, |all, digit| all << 8 | usize::from(*digit)))?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_keys() {
        crate::seeded::fuzz("pubkey", |bytes| {
            let Ok(key) = PublicKey::parse(&String::from_utf8_lossy(bytes)) else { return };
            // As many blocks as it takes, each as long as the key.
            for (length, blocks) in [(0, 0), (1, 1), (key.size - PADDING, 1), (key.size - PADDING + 1, 2)] {
                assert_eq!(key.seal(&vec![7; length]).unwrap().len(), blocks * key.size);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::process::Command;

    fn openssl(dir: &Path, words: &str) -> Vec<u8> {
        let run = Command::new("openssl").current_dir(dir).args(words.split(' ')).output().unwrap();
        assert!(run.status.success(), "{words}: {}", String::from_utf8_lossy(&run.stderr));
        run.stdout
    }

    /// A key of so many bits as monitord is given one, and the other key in `own` of the directory.
    fn pair(bits: u32) -> (tempfile::TempDir, PublicKey) {
        let dir = tempfile::tempdir().unwrap();
        openssl(dir.path(), &format!("genrsa -out own {bits}"));
        let public = openssl(dir.path(), "rsa -in own -RSAPublicKey_out");
        let key = PublicKey::parse(&String::from_utf8(public).unwrap()).unwrap();
        (dir, key)
    }

    #[test]
    fn the_holder_of_the_other_key_reads_what_was_sealed() {
        for bits in [1024, 2048, 2056] {
            let (dir, key) = pair(bits);
            let text: Vec<u8> = (0..700_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let sealed = key.seal(&text).unwrap();
            assert_eq!(sealed.len() % key.size, 0);
            assert_ne!(key.seal(&text).unwrap(), sealed, "its padding is random");
            let mut read = Vec::new();
            for block in sealed.chunks(key.size) {
                std::fs::write(dir.path().join("block"), block).unwrap();
                read.extend(openssl(
                    dir.path(),
                    "pkeyutl -decrypt -inkey own -in block -pkeyopt rsa_padding_mode:pkcs1",
                ));
            }
            assert_eq!(read, text);
            assert_eq!(key.seal(b"").unwrap(), b"");
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        openssl(dir.path(), "genrsa -out own 512");
        let small = String::from_utf8(openssl(dir.path(), "rsa -in own -RSAPublicKey_out")).unwrap();
        let other = String::from_utf8(openssl(dir.path(), "rsa -in own -pubout")).unwrap();
        let torn = format!("{BEGIN}\nMIGJAoGB\n{END}\n");
        for text in ["", small.as_str(), other.as_str(), torn.as_str(), BEGIN] {
            let failure = PublicKey::parse(text).unwrap_err();
            assert!(failure.text.starts_with("PUBKEY of monitord.conf names no RSA public key"), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes);
            let text = causeway_core::document::encode(&bytes);
            let _ = PublicKey::parse(&format!("{BEGIN}{text}{END}"));
        }
    }
}
