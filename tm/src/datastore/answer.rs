//! What a slot prints, in oned's form (contract TM 3.1), and what monitord is told.

use std::io::Write;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::encode;
use causeway_core::document::tree::{Element, Node, Text};
use causeway_core::names::HostName;
use flate2::{Compression, write::ZlibEncoder};

use super::{PublicKey, Request, Store, Verb, source};
use crate::TmSettings;
use crate::host::{Exported, VmSizes};

/// Most bytes of VMs in one datagram, before they are packed; a datagram has room for 65507.
const DATAGRAM: usize = 32 << 10;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// For standard output, with its line ends.
    pub stdout: String,
    /// The sizes of the disks of VMs, for monitord.
    pub sizes: Vec<VmSizes>,
}

impl Request {
    /// The answer, from what the step printed where it ran.
    ///
    /// # Errors
    /// [`Kind::Bug`]: that was not what the step prints.
    pub fn answer(
        &self,
        output: &str,
        host: Option<&HostName>,
        settings: &TmSettings,
    ) -> Result<Answer, Failure> {
        let confused = || Failure::new(Kind::Bug, format!("{}: a worker printed {output:?}", self.slot));
        let document = &self.document;
        let mut answer = Answer::default();
        let image = || document.image().map_err(Failure::from);
        let printed = match self.verb {
            Verb::Cp | Verb::Clone => {
                let format =
                    Some(output).filter(|word| !word.is_empty() && !word.contains(char::is_whitespace));
                format!("{} {}\n", self.new_source(settings)?, format.ok_or_else(confused)?)
            }
            Verb::Mkfs => format!("{}\n", self.new_source(settings)?),
            Verb::Stat => {
                let stated = || source::stated_size(image().ok()?.path().ok()?);
                let size: Option<u64> = if output.is_empty() { stated() } else { output.parse().ok() };
                format!("{}\n", size.ok_or_else(confused)?)
            }
            Verb::Rm | Verb::SnapDelete | Verb::SnapRevert | Verb::SnapFlatten => String::new(),
            Verb::Monitor => format!("{}\n", usage(output).ok_or_else(confused)?.join("\n")),
            Verb::System => {
                let (first, sizes) = output.split_once('\n').unwrap_or((output, "[]"));
                answer.sizes = serde_json::from_str(sizes).map_err(|_| confused())?;
                format!("{}\n", usage(first).ok_or_else(confused)?.join(" "))
            }
            Verb::Export => {
                let told: Exported =
                    serde_json::from_str(output.trim_start_matches("exported ")).map_err(|_| confused())?;
                let from = match self.store {
                    Store::Files => {
                        let path = format!("{}/{}", document.datastore.base_path, told.name);
                        host.map_or_else(|| path.clone(), |host| format!("ssh://{host}:{path}"))
                    }
                    Store::Ceph => self.volume_address(host.ok_or_else(confused)?)?,
                };
                let dispose = if told.dispose { "YES" } else { "NO" };
                let size = image()?.size_mb().map_err(Failure::from)?.to_string();
                let parts = [
                    ("IMPORT_SOURCE", from.as_str()),
                    ("MD5", &told.md5),
                    ("SIZE", &size),
                    ("FORMAT", &told.format),
                    ("DISPOSE", dispose),
                ];
                let mut info = Element::new("IMPORT_INFO");
                for (name, text) in parts {
                    let element = Element::new(name).with(Node::Text(Text::new(text)));
                    info.push(Node::Element(element.into()));
                }
                format!("{}\n", info.render())
            }
        };
        answer.stdout = printed;
        Ok(answer)
    }

    /// `SOURCE` of a new image: with the doubled slashes of `BASE_PATH`.
    fn new_source(&self, settings: &TmSettings) -> Result<String, Failure> {
        if self.store == Store::Ceph {
            return Ok(self.own_volume(settings)?.to_string());
        }
        let name = self.new_name().map_err(Failure::from)?;
        Ok(format!("{}/{name}", self.document.datastore.base_path))
    }
}

/// `USED_MB=1 TOTAL_MB=2 FREE_MB=1`, checked.
fn usage(text: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = text.split(' ').collect();
    let named = words.iter().zip(["USED_MB=", "TOTAL_MB=", "FREE_MB="]);
    let all = named.clone().count() == 3 && words.len() == 3;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (all && named.into_iter().all(|(word, name)| word.strip_prefix(name).is_some_and(number)))
        .then_some(words)
}

/// The datagrams that tell monitord of the disks of VMs (contract TM 3.1).
///
/// # Errors
/// Packing into memory failed, which it does not; there are no random bytes for a key's padding.
pub fn datagrams(vms: &[VmSizes], key: Option<&PublicKey>) -> std::io::Result<Vec<String>> {
    let mut texts = vec![String::new()];
    for vm in vms {
        let one = line(vm);
        match texts.last_mut() {
            Some(last) if last.len() + one.len() <= DATAGRAM => last.push_str(&one),
            _ => texts.push(one),
        }
    }
    let filled = texts.into_iter().filter(|text| !text.is_empty());
    filled.map(|text| Ok(format!("MONITOR_VM SUCCESS -1 0 {}", packed(&text, key)?))).collect()
}

/// What a host's probe hands on to monitord: a line for each VM, the last without its end.
pub(crate) fn told(vms: &[VmSizes]) -> String {
    vms.iter().map(line).collect::<String>().trim_end().to_owned()
}

fn line(vm: &VmSizes) -> String {
    let mut inner = String::new();
    for disk in &vm.disks {
        inner.push_str(&format!("DISK_SIZE=[ID={},SIZE={}]\n", disk.id, disk.size_mb));
        for (snapshot, size) in &disk.snapshots {
            let (id, disk) = (snapshot, disk.id);
            inner.push_str(&format!("SNAPSHOT_SIZE=[ID={id},DISK_ID={disk},SIZE={size}]\n"));
        }
    }
    format!("VM=[ID={}, MONITOR=\"{}\"]\n", vm.vm, encode(inner.as_bytes()))
}

/// Encrypted before it is packed, as monitord takes it apart.
fn packed(text: &str, key: Option<&PublicKey>) -> std::io::Result<String> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    match key {
        Some(key) => packer.write_all(&key.seal(text.as_bytes())?)?,
        None => packer.write_all(text.as_bytes())?,
    }
    Ok(encode(&packer.finish()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::DiskSizes;
    use causeway_core::document::decode;
    use causeway_core::names::VmId;
    use proptest::prelude::*;
    use std::io::Read;

    fn unpacked(datagram: &str) -> String {
        let payload = datagram.strip_prefix("MONITOR_VM SUCCESS -1 0 ").unwrap();
        let mut text = String::new();
        let bytes = decode(payload.as_bytes()).unwrap();
        flate2::read::ZlibDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        text
    }

    /// W52: snapshots are told, and numbers of two digits are numbers.
    #[test]
    fn monitord_is_told_of_every_disk_and_snapshot() {
        let disk = DiskSizes { id: 12, size_mb: 7, snapshots: [(0, 3), (10, 4)].into() };
        let told = datagrams(&[VmSizes { vm: VmId(41), disks: vec![disk] }], None).unwrap();
        let text = unpacked(&told[0]);
        let inner = text.strip_prefix("VM=[ID=41, MONITOR=\"").unwrap().strip_suffix("\"]\n").unwrap();
        assert_eq!(
            String::from_utf8(decode(inner.as_bytes()).unwrap()).unwrap(),
            "DISK_SIZE=[ID=12,SIZE=7]\nSNAPSHOT_SIZE=[ID=0,DISK_ID=12,SIZE=3]\nSNAPSHOT_SIZE=[ID=10,DISK_ID=12,SIZE=4]\n"
        );
        assert_eq!(datagrams(&[], None).unwrap(), [""; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn nobody_is_lost_and_no_datagram_is_too_large(count in 0_u32..1500, disks in 0_u32..6) {
            let of = |vm| VmSizes {
                vm: VmId(vm),
                disks: (0..disks).map(|id| DiskSizes { id, size_mb: 9, snapshots: [(1, 2)].into() }).collect(),
            };
            let told = datagrams(&(0..count).map(of).collect::<Vec<_>>(), None).unwrap();
            prop_assert!(told.iter().all(|datagram| datagram.len() < 65_000));
            let all: String = told.iter().map(|datagram| unpacked(datagram)).collect();
            prop_assert_eq!(all.matches("VM=[ID=").count(), usize::try_from(count).unwrap());
        }
    }

    #[test]
    fn a_line_of_usage_is_three_numbers() {
        assert!(usage("USED_MB=1 TOTAL_MB=22 FREE_MB=0").is_some());
        for text in [
            "",
            "USED_MB=1 TOTAL_MB=2",
            "USED_MB=1 TOTAL_MB= FREE_MB=0",
            "USED_MB=1 TOTAL_MB=2 FREE_MB=0 X=1",
        ] {
            assert!(usage(text).is_none(), "{text}");
        }
    }
}
