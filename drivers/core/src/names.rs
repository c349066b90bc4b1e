//! One definition for each name that travels between the drivers.
//!
//! Raw text becomes one of these types once, at the edge; inner code never sees a string from a template.
//! Every constructor checks the whole form, so that a value of these types can be put into an argv, a path or a
//! netlink message without another look.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that does not have the form of the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not {accepted}")]
pub struct NameError {
    /// What the text should have been, in the orchestrator's words.
    pub kind: &'static str,
    /// The text as it came, cut to a printable length.
    pub value: String,
    /// The accepted form.
    pub accepted: &'static str,
}

impl NameError {
    /// Builds the error; `value` is cut to 80 characters so that a hostile text does not fill a log.
    pub fn new(kind: &'static str, value: &str, accepted: &'static str) -> Self {
        let value = match value.char_indices().nth(80) {
            Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
            None => value.to_owned(),
        };
        NameError { kind, value, accepted }
    }
}

/// Implements what every text-backed name has: parsing, printing, and serde through its text.
macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

/// The number OpenNebula gives a virtual machine (`VM/ID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VmId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // `u32::from_str` would also take a leading plus sign, which oned never writes.
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(id) if digits => Ok(VmId(id)),
            _ => Err(NameError::new("VM id", text, "a decimal number below 4294967296")),
        }
    }
}

/// A host as OpenNebula names it (`HISTORY/HOSTNAME`): a DNS name or an address that ssh and libvirt accept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);
text_name!(HostName);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let accepted = "a host name or address of at most 253 letters, digits, '.', '-' and '_'";
        let bad = || NameError::new("host name", text, accepted);
        // An IPv6 address is the one form with colons. A leading dash would be read as an option by ssh.
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let named = !text.is_empty() && text.len() <= 253 && text.bytes().all(word);
        if (named && !text.starts_with(['-', '.'])) || text.parse::<Ipv6Addr>().is_ok() {
            Ok(HostName(text.to_owned()))
        } else {
            Err(bad())
        }
    }
}

/// What libvirt is asked for a domain by: its UUID, or `one-<VM id>` (contract VMM 1.5: both must be accepted).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeployId(String);
text_name!(DeployId);

impl DeployId {
    /// The id as text, a UUID in lower case with hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID, where the id is one.
    pub fn uuid(&self) -> Option<Uuid> {
        Uuid::parse_str(&self.0).ok()
    }

    /// The domain name that oned gives every VM.
    pub fn of_vm(vm: VmId) -> Self {
        DeployId(format!("one-{vm}"))
    }
}

impl From<Uuid> for DeployId {
    fn from(uuid: Uuid) -> Self {
        DeployId(uuid.hyphenated().to_string())
    }
}

impl FromStr for DeployId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(id) = text.strip_prefix("one-")
            && let Ok(vm) = id.parse::<VmId>()
        {
            return Ok(DeployId::of_vm(vm));
        }
        // Only the 36-character form: `Uuid` alone would also take braces and URNs.
        match Uuid::parse_str(text) {
            Ok(uuid) if text.len() == 36 => Ok(uuid.into()),
            _ => Err(NameError::new("deploy id", text, "a UUID or one-<VM id>")),
        }
    }
}

/// An absolute path below a datastore, without `.`/`..` components or control characters.
///
/// oned writes doubled slashes (`/var/lib/one//datastores`), and libvirt must get the exact string back, so both are
/// kept: [`as_str`](DiskPath::as_str) is the text as it came, equality is that of the normalised path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskPath(String);
text_name!(DiskPath);

impl DiskPath {
    /// The path as oned wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path with single slashes.
    pub fn path(&self) -> PathBuf {
        Path::new(&self.0).components().collect()
    }
}

impl PartialEq for DiskPath {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}
impl Eq for DiskPath {}

impl FromStr for DiskPath {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
        let path = Path::new(text);
        // `components()` hides single dots; a path that holds one was not written by oned.
        let dotted = text.split('/').any(|part| part == "." || part == "..");
        let ok = text.len() < 4096
            && path.is_absolute()
            && !dotted
            && path.components().all(plain)
            && path.components().count() > 1
            && !text.chars().any(char::is_control);
        if ok {
            Ok(DiskPath(text.to_owned()))
        } else {
            Err(NameError::new("path", text, "an absolute path without '.', '..' or control characters"))
        }
    }
}

/// An Ethernet address, printed as OpenNebula does: `02:00:0a:0a:00:0a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("MAC", text, "six pairs of hexadecimal digits with colons between");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(bad)?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Mac(octets)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// A VXLAN network identifier (RFC 7348 section 5): 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The number, below 2^24.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = NameError;
    fn try_from(number: u32) -> Result<Self, NameError> {
        if number < 1 << 24 {
            Ok(Vni(number))
        } else {
            Err(NameError::new("VNI", &number.to_string(), "a number below 16777216"))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl FromStr for Vni {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let number = text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        number
            .and_then(|n| Vni::try_from(n).ok())
            .ok_or_else(|| NameError::new("VNI", text, "a number below 16777216"))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a network device: what Linux takes (`dev_valid_name`: 1 to 15 bytes, no slash, colon or white space).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);
text_name!(LinkName);

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'\'' | b'\\' | b'%');
        let ok = (1..=15).contains(&text.len()) && text.bytes().all(word);
        if ok && !text.starts_with('-') && text != "." && text != ".." {
            Ok(LinkName(text.to_owned()))
        } else {
            Err(NameError::new(
                "device name",
                text,
                "1 to 15 printable characters without blanks, '/' and ':'",
            ))
        }
    }
}

/// A disk as the guest's own XML names it (`target/@dev`): `vda`, `sdb`, `hdc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);
text_name!(DiskName);

impl DiskName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DiskName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // libvirt takes a path in its place, and brackets behind it; neither has a meaning here.
        let ok = (1..=16).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        if ok {
            Ok(DiskName(text.to_owned()))
        } else {
            Err(NameError::new("disk", text, "1 to 16 lower-case letters and digits, such as vda"))
        }
    }
}

/// Names one accepted request through every log, exchange and journal: process start, then a running number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);
text_name!(RequestId);

impl RequestId {
    /// An id for the `sequence`-th request of the process that started at `start` (seconds since the epoch) with `pid`.
    pub fn new(start: u64, pid: u32, sequence: u64) -> Self {
        RequestId(format!("{start:x}-{pid:x}-{sequence}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // It becomes a file name on the host, hence the narrow alphabet.
        let ok =
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if ok {
            Ok(RequestId(text.to_owned()))
        } else {
            Err(NameError::new("request id", text, "1 to 64 letters, digits and '-'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_that_ssh_would_misread_are_refused() {
        for text in ["", "-oProxyCommand=x", ".h", "a b", "h;1", "h\n", "$(h)", "h'1", "a/b", "h:1"] {
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        for text in ["node1", "h1.example.org", "10.77.0.1", "fe80::1", "node_1"] {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn both_forms_of_deploy_id_are_taken() {
        let uuid: DeployId = "6E1F0F2A-0000-4000-8000-000000571347".parse().unwrap();
        assert_eq!(uuid.as_str(), "6e1f0f2a-0000-4000-8000-000000571347");
        assert_eq!("one-7".parse::<DeployId>().unwrap(), DeployId::of_vm(VmId(7)));
        for text in ["", "-", "one-", "one-x", "one-+7", "{6e1f0f2a-0000-4000-8000-000000571347}", "7"] {
            assert!(text.parse::<DeployId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn doubled_slashes_are_kept_and_compare_equal() {
        let sent: DiskPath = "/var/lib/one//datastores/0/7/disk.0".parse().unwrap();
        assert_eq!(sent.as_str(), "/var/lib/one//datastores/0/7/disk.0");
        assert_eq!(sent, "/var/lib/one/datastores/0/7/disk.0".parse().unwrap());
        for text in ["", "/", "//", "disk.0", "/a/../b", "/a/./b", "/a/..", "/a\n/b", "/a\0"] {
            assert!(text.parse::<DiskPath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_and_numbers_have_one_spelling() {
        assert_eq!("02:00:0A:0b:00:0c".parse::<Mac>().unwrap().to_string(), "02:00:0a:0b:00:0c");
        for text in ["", "02:00:0a:0b:00", "02:00:0a:0b:00:0c:0d", "+2:00:0a:0b:00:0c", "0200:0a:0b:00:0c"] {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
        assert!("16777215".parse::<Vni>().is_ok());
        assert!("16777216".parse::<Vni>().is_err());
        assert!("+1".parse::<Vni>().is_err());
        assert!("+1".parse::<VmId>().is_err());
        for text in ["vda", "sdaa", "hdc", "fd0"] {
            assert_eq!(text.parse::<DiskName>().unwrap().as_str(), text);
        }
        for text in ["", "1", "vda[1]", "/ds/0", "vd a", "vda'", "VDA"] {
            assert!(text.parse::<DiskName>().is_err(), "{text:?}");
        }
        for text in ["", "sixteen-letters-", "a b", "a/b", "-x", "a:b", "..", "a$(b)\n"] {
            assert!(text.parse::<LinkName>().is_err(), "{text:?}");
        }
    }
}
