//! Objects of an S3 store, from which a marketplace has its apps: `s3://BUCKET/OBJECT` becomes an address that is signed
//! for one object and a while (AWS Signature Version 4, query parameters). The keys stay in here (W48): whoever sees the
//! address, on a command line say, can fetch that object until then, and nothing else.

use std::time::Duration;

use causeway_core::document::tree::Element;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::document::set;
use crate::error::TmError;
use crate::iso::Moment;

/// Longest time that a signature can be good for, by the rules of that version.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A store, as the document's `MARKETPLACE` has it.
#[derive(Clone)]
pub(super) struct Store {
    key: Option<String>,
    secret: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    /// Whether it is Amazon's.
    aws: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn of(root: &Element) -> Option<Self> {
        let template = root.first("MARKETPLACE")?.first("TEMPLATE")?;
        Some(Store {
            key: set(template, "ACCESS_KEY_ID"),
            secret: set(template, "SECRET_ACCESS_KEY"),
            region: set(template, "REGION"),
            endpoint: set(template, "ENDPOINT"),
            // As the stock script reads it.
            aws: !set(template, "AWS").is_some_and(|text| text.contains("no") || text.contains("NO")),
        })
    }

    /// The address of `BUCKET/OBJECT` that is good for a while from `now` on, seconds since 1970.
    ///
    /// # Errors
    /// Not an object, or an attribute is missing or of another form.
    pub(super) fn signed(&self, object: &str, now: u64, lifetime: Duration) -> Result<String, TmError> {
        let missing =
            |what: &str| TmError::Missing { what: what.to_owned(), object: "the marketplace".to_owned() };
        let have = |value: &Option<String>, what: &str| value.clone().ok_or_else(|| missing(what));
        let [bucket, name] = object.split('/').collect::<Vec<_>>()[..] else { return Err(no_object(object)) };
        if bucket.is_empty() || name.is_empty() {
            return Err(no_object(object));
        }
        let (key, secret) = (have(&self.key, "ACCESS_KEY_ID")?, have(&self.secret, "SECRET_ACCESS_KEY")?);
        let region = have(&self.region, "REGION")?;
        let (scheme, host, path) = if self.aws {
            ("https", format!("{bucket}.s3.amazonaws.com"), format!("/{}", encoded(name)))
        } else {
            let endpoint = have(&self.endpoint, "ENDPOINT")?;
            // As curl reads one without a scheme.
            let (scheme, rest) = endpoint.split_once("://").unwrap_or(("http", &endpoint));
            let scheme = if scheme.eq_ignore_ascii_case("https") { "https" } else { "http" };
            let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
            let base = base.trim_end_matches('/');
            let base = if base.is_empty() { String::new() } else { format!("/{base}") };
            (scheme, host.to_owned(), format!("{base}/{}/{}", encoded(bucket), encoded(name)))
        };
        let stamp = Moment::of(now).stamp();
        let day = stamp.get(..8).unwrap_or_default();
        let scope = format!("{day}/{region}/s3/aws4_request");
        let seconds = lifetime.min(LONGEST).as_secs().max(1);
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={stamp}&X-Amz-Expires={seconds}\
             &X-Amz-SignedHeaders=host",
            encoded(&format!("{key}/{scope}"))
        );
        // What a client leaves out of the header.
        let usual = if scheme == "https" { ":443" } else { ":80" };
        let asked = host.strip_suffix(usual).unwrap_or(&host).to_ascii_lowercase();
        let request = format!("GET\n{path}\n{query}\nhost:{asked}\n\nhost\nUNSIGNED-PAYLOAD");
        let text = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hexadecimal(&Sha256::digest(request.as_bytes()))
        );
        let mut sign = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
        for part in [region.as_str(), "s3", "aws4_request", &text] {
            sign = hmac(&sign, part.as_bytes());
        }
        Ok(format!("{scheme}://{host}{path}?{query}&X-Amz-Signature={}", hexadecimal(&sign)))
    }
}

fn no_object(object: &str) -> TmError {
    TmError::Attribute {
        attribute: "PATH".to_owned(),
        object: "the image".to_owned(),
        value: format!("s3://{object}"),
        accepted: "s3://BUCKET/OBJECT".into(),
    }
}

/// With all signs but the unreserved ones as `%XX`.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104. A key may have any length.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let keyed = Hmac::<Sha256>::new_from_slice(key);
    keyed.map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(more: &str) -> Store {
        let xml = format!("<X><MARKETPLACE><TEMPLATE>{more}</TEMPLATE></MARKETPLACE></X>");
        Store::of(&causeway_core::document::parse(xml.as_bytes()).unwrap()).unwrap()
    }

    const KEYS: &str = "<ACCESS_KEY_ID>AKIAIOSFODNN7EXAMPLE</ACCESS_KEY_ID><REGION>us-east-1</REGION>\
        <SECRET_ACCESS_KEY>wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY</SECRET_ACCESS_KEY>";
    /// 24 May 2013.
    const DAY: u64 = 1_369_353_600;

    /// The example in Amazon's description of the signature.
    #[test]
    fn a_known_object_has_the_known_signature() {
        let address = store(KEYS).signed("examplebucket/test.txt", DAY, Duration::from_secs(86_400)).unwrap();
        assert_eq!(
            address,
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=\
             AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z\
             &X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=\
             aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
        assert!(!format!("{:?}", store(KEYS)).contains("EXAMPLEKEY"));
    }

    #[test]
    fn a_key_of_any_length_signs() {
        // RFC 4231, test cases 2 and 6.
        let sign = |key: &[u8], text: &str| hexadecimal(&hmac(key, text.as_bytes()));
        assert_eq!(
            sign(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            sign(&[0xaa; 131], "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn a_store_of_ones_own_has_its_bucket_in_the_path() {
        let signed = |more: &str, object: &str| {
            store(&format!("{KEYS}<AWS>no</AWS>{more}")).signed(object, DAY, LONGEST * 2)
        };
        for (endpoint, begin) in [
            ("http://s3.example.org:9000", "http://s3.example.org:9000/apps/marketapp-7?"),
            ("HTTPS://h:443/s3/", "https://h:443/s3/apps/marketapp-7?"),
            ("h", "http://h/apps/marketapp-7?"),
        ] {
            let address = signed(&format!("<ENDPOINT>{endpoint}</ENDPOINT>"), "apps/marketapp-7").unwrap();
            assert!(address.starts_with(begin) && address.contains("Expires=604800&"), "{address}");
        }
        let odd = signed("<ENDPOINT>h</ENDPOINT>", "a b/c'd").unwrap();
        assert!(odd.starts_with("http://h/a%20b/c%27d?"), "{odd}");
        for object in ["", "apps", "apps/", "/x", "a/b/c"] {
            assert!(
                signed("<ENDPOINT>h</ENDPOINT>", object).unwrap_err().to_string().contains("BUCKET/OBJECT"),
                "{object}"
            );
        }
        assert_eq!(
            signed("", "a/b").unwrap_err().to_string(),
            "ENDPOINT is not in the document of the marketplace"
        );
        let keyless = store("<REGION>r</REGION>").signed("a/b", DAY, LONGEST).unwrap_err().to_string();
        assert_eq!(keyless, "ACCESS_KEY_ID is not in the document of the marketplace");
    }
}
